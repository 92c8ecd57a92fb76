"""A recurrent classifier behind `POST /classify`: published while the worker runs, answered, not traced, deleted."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from cli.main import main
from sentiment_neuron import Client, Neuron, RecurrentClassifier, RequestFailedError
from tests.conftest import Stack, publish_tiny, run_stack, wait_until
from tests.recurrent.reviews import LABELS, TEXTS
from tests.support.gateway import metric

SMALL = {"embedding": 8, "units": 8, "batch_size": 8, "epochs": 20, "learning_rate": 0.02, "min_df": 1}


@pytest.fixture(scope="module")
def fitted() -> RecurrentClassifier:
    return RecurrentClassifier(**SMALL).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, fitted: RecurrentClassifier) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("recurrent")
    publish_tiny(directory / "volume", step=1)
    settings = {
        "NEURON_CHECKPOINT_DIR": str(directory / "volume"),
        "NEURON_WORKER_HEADS_DIR": str(directory / "volume" / "heads"),
        "NEURON_WORKER_POLL_S": "0.2",
    }
    with run_stack(directory, **settings) as stack:
        fitted.save(directory / "fitted")
        published = rnn("publish", directory / "fitted", "--name", "films", "--checkpoint", directory / "volume")
        assert "published: films" in published
        yield stack


def rnn(*arguments: object, group: str = "rnn") -> str:
    result = CliRunner().invoke(main, [group, *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def client(serving: Stack) -> Iterator[httpx.Client]:
    with serving.client() as opened:
        yield opened


def volume(stack: Stack) -> Path:
    return Path(stack.environment["NEURON_CHECKPOINT_DIR"])


def test_it_answers_as_it_does_in_process(client: httpx.Client, serving: Stack, fitted: RecurrentClassifier) -> None:
    answer = client.post("/classify", json={"texts": TEXTS, "head": "films"})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    expected = fitted.predict_proba(TEXTS)
    for result, row in zip(results, expected, strict=True):
        assert [result["probabilities"][label] for label in ("bad", "good")] == pytest.approx(row, abs=1e-6)
        assert result["label"] == fitted.classes_[row.argmax()]
        assert result["score"] == pytest.approx(row.max())
        silent = {"expected_value", "unit_sentiment", "sentiment", "unit_value", "bits_per_byte", "warning"}
        assert {name for name, value in result.items() if value is None} == silent
    port = serving.environment["NEURON_WORKER_METRICS_PORT"]
    url = f"http://127.0.0.1:{port}"
    assert metric(url, 'neuron_recurrent_texts_ended_total{how="done"}') >= len(TEXTS)
    assert metric(url, "neuron_recurrent_batch_rows_sum") >= len(TEXTS)


def test_it_is_listed_among_heads(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/heads").json()["heads"])
    (head,) = client.get("/heads").json()["heads"]
    assert head == client.get("/heads/films").json()
    assert (head["kind"], head["checkpoint"], head["pooling"], head["usable"]) == ("recurrent", None, None, True)
    assert head["labels"] == ["bad", "good"]
    assert head["examples"] == len(TEXTS)


def test_its_name_is_taken(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/heads").json()["heads"])
    examples = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    answer = client.post("/heads", json={"name": "films", "examples": examples})
    assert answer.status_code == 409
    assert "there is a head 'films' already" in answer.json()["detail"]


def test_limits_and_errors_are_those_of_every_head(client: httpx.Client) -> None:
    answer = client.post("/classify", json={"texts": ["a"] * 2000, "head": "films"})
    assert answer.status_code == 413
    assert "NEURON_API_MAX_TEXTS" in answer.json()["detail"]
    answer = client.post("/trace", json={"text": "A film.", "head": "films"})
    assert answer.status_code == 409
    assert "is a recurrent classifier, which takes nothing of the model: it has no trace" in answer.json()["detail"]
    answer = client.post("/classify", json={"texts": TEXTS, "head": "films", "timeout_s": 1e-6})
    assert answer.status_code == 504


def test_as_a_job_in_a_batch_and_from_python(client: httpx.Client, serving: Stack, fitted: RecurrentClassifier) -> None:
    job = client.post("/classify", json={"texts": TEXTS, "head": "films"}, headers={"Prefer": "respond-async"})
    assert job.status_code == 202
    wait_until(lambda: client.get(f"/jobs/{job.json()['id']}").json()["state"] == "done")
    with Client(str(client.base_url)) as python:
        assert [result.label for result in python.classify(TEXTS, head="films")] == list(fitted.predict(TEXTS))
        (head,) = python.heads()
        assert head.kind == "recurrent"


def test_without_a_server(serving: Stack, fitted: RecurrentClassifier, tmp_path: Path) -> None:
    with Neuron.load(volume(serving)) as neuron:
        assert [result.label for result in neuron.classify(TEXTS, "films")] == list(fitted.predict(TEXTS))
        assert neuron.classify(["A lovely lamp."], "films")[0].unit_sentiment is None
        with pytest.raises(RequestFailedError, match="no head 'songs'"):
            neuron.classify(["A lovely lamp."], "songs")
    where = ("--checkpoint", volume(serving))
    assert "good" in rnn("A lovely lamp.", "--head", "films", *where, group="classify")
    listed = rnn("list", *where, group="head")
    assert listed.startswith("films")
    assert "on texts that chose its epoch" in listed
    assert "recurrent" in listed
    source = tmp_path / "texts.txt"
    source.write_text("A lovely lamp.\nA dreadful lamp.\n")
    rnn(source, "--head", "films", "--out", tmp_path / "out.csv", *where, group="classify")
    assert "probability_good" in (tmp_path / "out.csv").read_text()


def test_another_checkpoint_serves_it_too_and_it_is_deleted(client: httpx.Client, serving: Stack) -> None:
    publish_tiny(volume(serving), step=2, seed=2)
    wait_until(lambda: client.get("/models").json()["models"][0]["step"] == 2)
    answer = client.post("/classify", json={"texts": TEXTS[:1], "head": "films"}).json()
    assert answer["model"]["step"] == 2
    assert answer["results"][0]["label"] == "good"
    assert client.delete("/heads/films").status_code == 204
    assert client.post("/classify", json={"texts": TEXTS[:1], "head": "films"}).status_code == 404
    assert list((volume(serving) / "heads").glob("*.rnn")) == []

"""Heads for users over HTTP: fitted, listed, used, deleted; refused with what to do; never lost, never made twice."""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from contract import wire
from model.checkpoints import head_store
from model.checkpoints.durable import replace_file
from tests.conftest import Stack, publish_tiny, run_stack, wait_until
from tests.support.gateway import gateway
from worker.results import Results

ASYNC = {"Prefer": "respond-async"}


def examples(labels: str = "ab", each: int = 12, seed: int = 0) -> list[dict[str, str]]:
    """Texts whose last letters are their label's: that much even a random model's cell says."""
    draw = random.Random(seed)  # noqa: S311 - not a secret
    return [
        {"text": "".join(draw.choices("xyz ", k=8)) + "." + 6 * label, "label": f"label {label}"}
        for _ in range(each)
        for label in labels
    ]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("heads")
    publish_tiny(directory / "volume", step=1)
    settings = {"NEURON_CHECKPOINT_DIR": str(directory / "volume"), "NEURON_WORKER_HEADS_DIR": str(directory / "kept")}
    with run_stack(directory, NEURON_WORKER_POLL_S="0.2", **settings) as stack:
        yield stack


@pytest.fixture
def client(serving: Stack) -> Iterator[httpx.Client]:
    with serving.client() as opened:
        yield opened


def directory_of(stack: Stack) -> Path:
    return Path(stack.environment["NEURON_WORKER_HEADS_DIR"])


def names(client: httpx.Client) -> list[str]:
    return [head["name"] for head in client.get("/heads").raise_for_status().json()["heads"]]


def test_a_head_is_fitted_listed_used_and_deleted(client: httpx.Client) -> None:
    answer = client.post("/heads", json={"name": "letters", "examples": examples()})
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert report["model"] == report["checkpoint"] == {"name": "tiny", "step": 1}
    assert report["labels"] == ["label a", "label b"]
    assert report["examples"] == 24
    assert report["folds"] == 5
    assert report["accuracy"] > 0.9
    assert report["pooling"] == "mean"
    assert report["nonzero_units"] >= len(report["top_units"]) > 0
    assert sum(map(sum, report["confusion"])) == 24
    shown = client.get("/heads/letters").json()
    assert shown == {name: of for name, of in report.items() if name != "model"} | {"usable": True, "confusion": None}
    assert client.get("/heads").json() == {"heads": [shown]}

    answer = client.post("/classify", json={"texts": ["zzz.aaaaaa", "zzz.bbbbbb"], "head": "letters"}).json()
    assert [result["label"] for result in answer["results"]] == ["label a", "label b"]

    assert client.delete("/heads/letters").status_code == 204
    assert client.get("/heads").json() == {"heads": []}
    for gone in (
        client.get("/heads/letters"),
        client.delete("/heads/letters"),
        client.post("/classify", json={"text": "x", "head": "letters"}),
    ):
        assert gone.status_code == 404
        assert gone.json()["type"].endswith(":unknown-head")


def test_labels_may_be_numbers_and_truth_values(client: httpx.Client) -> None:
    """As in files of JSON lines, which `neuron head fit` reads."""
    for labels, named in (((0, 1), ["0", "1"]), ((False, True), ["false", "true"]), ((1.0, 4.5), ["1", "4.5"])):
        listed = [one | {"label": labels[one["label"] == "label b"]} for one in examples("ab", each=3)]
        report = client.post("/heads", json={"name": "numbered", "examples": listed}).raise_for_status().json()
        assert report["labels"] == named
        client.delete("/heads/numbered").raise_for_status()
    for label in (2**60, None, [1], {"a": 1}):
        refused = client.post("/heads", json={"name": "numbered", "examples": [{"text": "x", "label": label}] * 2})
        assert refused.status_code == 422
        assert "examples.0.label" in refused.json()["detail"]


def test_many_labels_and_one_unit(client: httpx.Client) -> None:
    many = client.post("/heads", json={"name": "many", "examples": examples("abcd")}).raise_for_status().json()
    assert many["labels"] == [f"label {letter}" for letter in "abcd"]
    assert many["accuracy"] > 0.8
    assert {len(unit["weights"]) for unit in many["top_units"]} == {4}
    confusion = many["confusion"]
    assert [sum(row) for row in confusion] == [many["examples"] // 4] * 4
    assert sum(confusion[label][label] for label in range(4)) / many["examples"] == pytest.approx(
        many["accuracy"], abs=0.05
    )
    answer = client.post("/classify", json={"texts": ["." + 6 * c for c in "abcd"], "head": "many"}).json()
    assert [result["label"] for result in answer["results"]] == many["labels"]

    body = {"name": "one", "examples": examples(), "unit_only": True}
    one = client.post("/heads", json=body).raise_for_status().json()
    assert one["unit_only"]
    assert one["nonzero_units"] == len(one["top_units"]) == 1
    assert one["c"] is None
    assert one["pooling"] == "cell"
    assert one["accuracy"] > 0.9
    assert sum(map(sum, one["confusion"])) == one["examples"]
    low, high = one["accuracy_interval"]
    assert 0.5 < low < one["accuracy"] <= high <= 1
    assert sorted(names(client)) == ["many", "one"]
    for name in ("many", "one"):
        client.delete(f"/heads/{name}").raise_for_status()


def test_two_examples_are_enough_for_a_head_and_not_for_an_estimate(client: httpx.Client) -> None:
    two = [{"text": "aaaaaa", "label": "a"}, {"text": "bbbbbb", "label": "b"}]
    report = client.post("/heads", json={"name": "two", "examples": two, "pooling": "tanh"}).raise_for_status().json()
    assert report["accuracy"] is report["accuracy_interval"] is report["accuracy_deviation"] is None
    assert report["confusion"] is None
    assert report["folds"] == 0
    assert report["pooling"] == "tanh"
    assert report["c"] > 0
    answer = client.post("/classify", json={"texts": ["aaaaaa", "bbbbbb"], "head": "two"}).json()
    assert [result["label"] for result in answer["results"]] == ["a", "b"]
    client.delete("/heads/two").raise_for_status()


def test_as_a_job_with_its_events(client: httpx.Client) -> None:
    accepted = client.post("/heads", json={"name": "later", "examples": examples()}, headers=ASYNC)
    assert accepted.status_code == 202
    where = accepted.headers["location"]
    with client.stream("GET", where + "/events") as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert "event: done" in lines
    result = json.loads(lines[-1].removeprefix("data: "))
    assert result["name"] == "later"
    assert client.get(where).json()["result"] == result
    client.delete("/heads/later").raise_for_status()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"examples": examples("a")}, "all 12 examples have the label 'label a'"),
        ({"examples": [{"text": " ", "label": "a"}, {"text": "x", "label": "b"}]}, "examples.0.text: "),
        ({"examples": [{"text": "x", "label": ""}, {"text": "x", "label": "b"}]}, "examples.0.label: "),
        ({"examples": [{"text": "x", "label": "\x1b[2J"}, {"text": "x", "label": "b"}]}, "examples.0.label: "),
        ({"examples": examples()[:1]}, "at least 2"),
        ({"examples": examples("abc"), "unit_only": True}, "here are 3: leave unit_only out"),
        ({"examples": [{"text": "x", "label": str(n)} for n in range(101)]}, "101 different labels"),
        ({"name": "Upper"}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"timeout_s": 1e9}, "NEURON_API_JOB_TIMEOUT_S"),
        ({"units": 1}, "units"),
    ],
)
def test_what_cannot_be_fitted_is_refused_at_the_door(
    client: httpx.Client, change: dict[str, object], words: str
) -> None:
    answer = client.post("/heads", json={"name": "refused", "examples": examples()} | change)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"].endswith(":invalid-request")
    assert words in answer.json()["detail"]


def test_texts_that_are_all_the_same_are_refused_with_what_to_do(client: httpx.Client) -> None:
    same = [{"text": "the same", "label": label} for label in "aabb"]
    for unit_only in (False, True):
        answer = client.post("/heads", json={"name": "same", "examples": same, "unit_only": unit_only})
        assert answer.status_code == 422
        assert answer.json()["type"].endswith(":cannot-fit")
        assert "differs between the labels of 4 rows: give other texts" in answer.json()["detail"]
    assert names(client) == []


def test_a_name_is_taken_once(client: httpx.Client, serving: Stack) -> None:
    own = client.post("/heads", json={"name": "sentiment", "examples": examples()})
    assert own.status_code == 409
    assert "tiny step 1 has a head 'sentiment' of its own" in own.json()["detail"]
    deleted = client.delete("/heads/sentiment")
    assert deleted.status_code == 404
    assert deleted.json()["detail"] == "tiny step 1 has the head 'sentiment' itself: only fitted heads can be deleted"

    body, key = {"name": "once", "examples": examples()}, {"Idempotency-Key": "a fit"}
    first = client.post("/heads", json=body, headers=key).raise_for_status()
    read = serving.worker_metric("neuron_bytes_total", '{kind="read"}')
    again = client.post("/heads", json=body, headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    clash = client.post("/heads", json=body)
    assert clash.status_code == 409
    assert clash.json()["type"].endswith(":head-exists")
    assert "delete it first" in clash.json()["detail"]
    assert serving.worker_metric("neuron_bytes_total", '{kind="read"}') == read

    # Where the gateway does not know of it, the worker still does.
    with redis.Redis.from_url(serving.environment["NEURON_REDIS_URL"]) as wiped:
        wiped.delete(wire.HEADS)
        clash = client.post("/heads", json=body)
        assert clash.status_code == 409
        wait_until(lambda: names(client) == ["once"], what="the list to heal")
    client.delete("/heads/once").raise_for_status()


def test_of_two_fits_of_one_name_one_is_kept(client: httpx.Client) -> None:
    bodies = [{"name": "race", "examples": examples(labels)} for labels in ("ab", "cd")]
    jobs = [client.post("/heads", json=body, headers=ASYNC).raise_for_status().headers["location"] for body in bodies]
    wait_until(lambda: all(client.get(job).json()["state"] in ("done", "failed") for job in jobs), what="both ends")
    ends = {client.get(job).json()["state"]: client.get(job).json() for job in jobs}
    assert ends["failed"]["error"]["type"].endswith(":head-exists")
    assert client.get("/heads/race").json()["labels"] == ends["done"]["result"]["labels"]
    client.delete("/heads/race").raise_for_status()


def test_a_fit_is_cancelled(client: httpx.Client, serving: Stack) -> None:
    long = [example | {"text": example["text"] * 20_000} for example in examples()]
    where = client.post("/heads", json={"name": "never", "examples": long}, headers=ASYNC).headers["location"]
    wait_until(lambda: serving.worker_metric("neuron_rows_active") > 0, what="the reading")
    client.delete(where).raise_for_status()
    wait_until(lambda: client.get(where).json()["state"] == "cancelled", what="the end")
    assert names(client) == []
    # And is no longer in the way of the next one.
    client.post("/heads", json={"name": "next", "examples": examples()}).raise_for_status()
    client.delete("/heads/next").raise_for_status()


def test_others_are_answered_while_a_fit_computes_and_it_is_cancelled_then(
    client: httpx.Client, serving: Stack
) -> None:
    worker = serving.processes["worker"].pid
    hard = [example | {"label": str(number % 30)} for number, example in enumerate(examples("abcdef", 200))]
    where = client.post("/heads", json={"name": "hard", "examples": hard}, headers=ASYNC).headers["location"]
    wait_until(lambda: children(worker), what="the process of the fit")
    (child,) = children(worker)
    threads = [int(task.name) for task in Path(f"/proc/{child}/task").iterdir()]
    wait_until(lambda: {os.getpriority(os.PRIO_PROCESS, one) for one in threads} == {19}, what="its giving way")
    assert client.post("/classify", json={"text": "Good."}).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.get(where).json()["state"] == "running"
    client.delete(where).raise_for_status()
    wait_until(lambda: client.get(where).json()["state"] == "cancelled", what="the end")
    assert not children(worker)
    assert names(client) == []


def test_a_fit_that_is_late_fails_with_504(client: httpx.Client) -> None:
    long = [example | {"text": example["text"] * 20_000} for example in examples()]
    answer = client.post("/heads", json={"name": "late", "examples": long, "timeout_s": 1.0})
    assert answer.status_code == 504
    assert names(client) == []


def test_a_head_of_another_checkpoint_answers_409_until_that_one_is_served_again(
    client: httpx.Client, serving: Stack
) -> None:
    volume = Path(serving.environment["NEURON_CHECKPOINT_DIR"])
    client.post("/heads", json={"name": "of-one", "examples": examples()}).raise_for_status()
    publish_tiny(volume, step=2, seed=2)

    def served(step: int) -> bool:
        return [model["step"] for model in client.get("/models").json()["models"]] == [step]

    wait_until(lambda: served(2), what="step 2")
    assert not client.get("/heads/of-one").json()["usable"]
    answer = client.post("/classify", json={"text": "aaaaaa", "head": "of-one"})
    assert answer.status_code == 409
    assert answer.json()["type"].endswith(":head-of-other-checkpoint")
    for words in ("tiny step 1", "tiny step 2 is served", "POST /heads"):
        assert words in answer.json()["detail"]
    # Fitted again, as the answer says.
    assert client.post("/heads", json={"name": "of-one", "examples": examples()}).status_code == 409
    client.delete("/heads/of-one").raise_for_status()
    client.post("/heads", json={"name": "of-one", "examples": examples()}).raise_for_status()
    assert client.get("/heads/of-one").json()["usable"]
    assert client.post("/classify", json={"text": "aaaaaa", "head": "of-one"}).status_code == 200
    replace_file(volume / "LATEST", "tiny/step-1\n")
    wait_until(lambda: served(1), what="step 1")
    assert client.post("/classify", json={"text": "aaaaaa", "head": "of-one"}).status_code == 409
    client.delete("/heads/of-one").raise_for_status()


def test_files_that_come_and_go_are_known(client: httpx.Client, serving: Stack, tmp_path: Path) -> None:
    client.post("/heads", json={"name": "kept", "examples": examples()}).raise_for_status()
    file = directory_of(serving) / "kept.json"
    away = Path(shutil.move(file, tmp_path / "kept.json"))
    wait_until(lambda: names(client) == [], what="its going")
    assert client.post("/classify", json={"text": "x", "head": "kept"}).status_code == 404
    shutil.copy(away, file)
    wait_until(lambda: names(client) == ["kept"], what="its coming")
    assert client.post("/classify", json={"text": "x", "head": "kept"}).status_code == 200

    refused = serving.worker_metric("neuron_refused_heads_total")
    (directory_of(serving) / "link.json").symlink_to(away)
    (directory_of(serving) / "damaged.json").write_bytes(away.read_bytes()[:-10])
    wait_until(lambda: serving.worker_metric("neuron_refused_heads_total") == refused + 2, what="both refusals")
    assert names(client) == ["kept"]
    assert client.post("/classify", json={"text": "x", "head": "link"}).status_code == 404
    assert "a link, only plain files are read" in serving.log.read_text()
    assert client.delete("/heads/link").status_code == 204  # the link goes, what it names stays
    assert away.exists()
    for name in ("damaged", "kept"):
        assert client.delete(f"/heads/{name}").status_code == 204


def test_where_heads_cannot_be_kept_the_fit_is_refused_before_the_work(
    client: httpx.Client, serving: Stack, tmp_path: Path
) -> None:
    directory = directory_of(serving)
    directory.mkdir(exist_ok=True)
    read = serving.worker_metric("neuron_bytes_total", '{kind="read"}')
    away = directory.rename(tmp_path / "away")
    directory.symlink_to(away)
    try:
        answer = client.post("/heads", json={"name": "kept", "examples": examples()})
    finally:
        directory.unlink()
        away.rename(directory)
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":cannot-keep-heads")
    assert "NEURON_WORKER_HEADS_DIR" in answer.json()["detail"]
    assert serving.worker_metric("neuron_bytes_total", '{kind="read"}') == read
    assert client.post("/classify", json={"text": "Good."}).status_code == 200


def test_limits_name_their_setting(redis_url: str) -> None:
    settings = {"NEURON_API_MAX_EXAMPLES": "20", "NEURON_API_MAX_FIT_BYTES": "20000"}
    with (
        gateway(redis_url, NEURON_API_MAX_REQUEST_BYTES="1024", **settings) as url,
        httpx.Client(base_url=url) as client,
    ):
        for body, setting in (
            ({"name": "big", "examples": examples()}, "NEURON_API_MAX_EXAMPLES"),
            ({"name": "big", "examples": examples(each=400)}, "NEURON_API_MAX_FIT_BYTES"),
        ):
            answer = client.post("/heads", json=body)
            assert answer.status_code == 413
            assert answer.json()["setting"] == setting
        answer = client.post("/classify", json={"text": "x" * 2000})
        assert answer.json()["setting"] == "NEURON_API_MAX_REQUEST_BYTES"


@pytest.mark.slow
def test_a_hundred_thousand_examples_are_as_many_as_may_be(client: httpx.Client) -> None:
    many = [{"text": f"{number:06} {'ab'[number % 2] * 4}", "label": "ab"[number % 2]} for number in range(100_000)]
    answer = client.post("/heads", json={"name": "large", "examples": many}, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    assert client.post("/classify", json={"text": "Good."}).status_code == 200  # the queue is not full of them
    where = answer.headers["location"]
    wait_until(lambda: client.get(where).json()["state"] == "done", timeout_s=240, what="the end")
    report = client.get("/heads/large").json()
    assert report["examples"] == 100_000
    assert report["accuracy"] > 0.99
    client.delete("/heads/large").raise_for_status()
    over = client.post("/heads", json={"name": "larger", "examples": [*many, many[0]]})
    assert over.status_code == 413
    assert over.json() | {"limit": 100_000, "actual": 100_001, "setting": "NEURON_API_MAX_EXAMPLES"} == over.json()


def test_a_worker_killed_in_the_fit_leaves_the_job_to_another_and_one_head(
    client: httpx.Client, serving: Stack
) -> None:
    hard = [example | {"label": f"label {number % 2}"} for number, example in enumerate(examples("abcdef", 150))]
    where = client.post("/heads", json={"name": "survivor", "examples": hard}, headers=ASYNC).headers["location"]
    worker = serving.processes["worker"].pid
    wait_until(lambda: children(worker), what="the process of the fit")
    (child,) = children(worker)
    serving.kill("worker")
    wait_until(lambda: not Path(f"/proc/{child}").exists() or ended(child), what="the end of the orphan")
    with redis.Redis.from_url(serving.environment["NEURON_REDIS_URL"]) as server:
        lapse(server, where.removeprefix("/jobs/"))
    serving.spawn("worker")
    wait_until(lambda: client.get(where).json()["state"] == "done", what="the end")
    result = client.get(where).json()["result"]
    assert list(head_store.names(directory_of(serving))) == ["survivor"]
    assert result["created"] == head_store.read(directory_of(serving), "survivor").created
    assert client.get("/heads/survivor").json()["created"] == result["created"]
    client.delete("/heads/survivor").raise_for_status()


def children(parent: int) -> list[int]:
    """Processes of the fit."""
    listed = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(child) for task in listed for child in task.read_text().split()]
    return [child for child in found if b"worker.fit_process" in Path(f"/proc/{child}/cmdline").read_bytes()]


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def lapse(server: redis.Redis, job_id: str) -> None:
    """The job's lease ended long ago."""
    server.zadd(wire.LEASES, {job_id: 1})


def test_what_was_written_before_the_worker_died_is_the_jobs_result(serving: Stack, client: httpx.Client) -> None:
    """The file, not yet the outcome: it names the job that made it."""
    first = client.post("/heads", json={"name": "written", "examples": examples()}).raise_for_status()
    job_id = first.headers["x-job-id"]
    read = serving.worker_metric("neuron_bytes_total", '{kind="read"}')
    with redis.Redis.from_url(serving.environment["NEURON_REDIS_URL"]) as server:
        body = {"kind": "fit", "id": job_id, "name": "written", "timeout_s": 60, "unit_only": False, "pooling": "mean"}
        body |= {"texts": [one["text"] for one in examples()], "labels": [one["label"] for one in examples()]}
        server.delete(wire.result(job_id))
        server.hset(wire.job(job_id), mapping={"state": "queued", "body": json.dumps(body), "kind": "fit"})
        lapse(server, job_id)
        Results(server, 60, 3).reap("the-test")  # as each worker does every few seconds
        wait_until(lambda: server.exists(wire.result(job_id)), what="the outcome")
        assert json.loads(server.get(wire.result(job_id)))["result"] == first.json()  # type: ignore[arg-type]
    assert serving.worker_metric("neuron_bytes_total", '{kind="read"}') == read
    client.delete("/heads/written").raise_for_status()


def test_a_deletion_that_runs_again_is_done(serving: Stack, client: httpx.Client) -> None:
    """An earlier delivery deleted the head and died before it could say so."""
    job_id = "a-deletion-that-ran-0001"
    with redis.Redis.from_url(serving.environment["NEURON_REDIS_URL"]) as server:
        body = {"kind": "delete-head", "id": job_id, "name": "gone", "timeout_s": 60}
        record = {"state": "running", "body": json.dumps(body), "kind": "delete-head", "holder": "dead"}
        record |= {"attempts": "1", "created": str(time.time()), "priority": "interactive"}
        server.hset(wire.job(job_id), items=[part for item in record.items() for part in item])
        lapse(server, job_id)
        Results(server, 60, 3).reap("the-test")
        wait_until(lambda: server.exists(wire.result(job_id)), what="the outcome")
        assert json.loads(server.get(wire.result(job_id)))["state"] == "done"  # type: ignore[arg-type]
    assert client.delete("/heads/gone").status_code == 404

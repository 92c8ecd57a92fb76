"""`neuron head`: fits of labelled files that a worker of the same volume finds, and what it says when it cannot."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from model.checkpoints import head_store, volumes
from tests.cli.conftest import Neuron
from tests.conftest import publish_tiny, run_stack, wait_until, write_packed

ROWS = [(f"{number} " + 6 * letter, f"label {letter}") for number in range(12) for letter in "ab"]
CSV = "\n".join(["label,text", *(f"{label},{text}" for text, label in ROWS)]) + "\n"
LINES = "".join(json.dumps({"body": text, "label": label, "other": 1}) + "\n" for text, label in ROWS)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    publish_tiny(tmp_path / "volume", step=1)
    return tmp_path / "volume"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_packed(tmp_path / "rows.csv.xz", CSV.encode())


def test_a_head_is_fitted_listed_used_and_deleted(neuron: Neuron, volume: Path, labelled: Path) -> None:
    fitted = neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", volume)
    assert fitted.exit_code == 0, fitted.output
    lines = dict(
        line.split(maxsplit=1) for line in fitted.stdout.splitlines() if line.split()[0] not in ("nonzero", "top")
    )
    assert lines["name"] == "mine"
    assert lines["checkpoint"] == "tiny step 1"
    assert lines["labels"] == "label a, label b"
    assert lines["accuracy"].endswith("5 folds")
    classified = neuron("classify", "zz aaaaaa", "zz bbbbbb", "--head", "mine", "--checkpoint", volume)
    assert [line[:7] for line in classified.stdout.splitlines()] == ["label a", "label b"]
    listed = neuron("head", "list", "--checkpoint", volume)
    assert listed.stdout.startswith("mine ")
    assert "tiny step 1\n" in listed.stdout
    assert neuron("head", "delete", "mine", "--checkpoint", volume).exit_code == 0
    assert neuron("head", "list", "--checkpoint", volume).stdout == ""


def test_json_is_the_answer_of_the_service(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    """But for when it was fitted: the same head, from the same texts."""
    source = write_packed(tmp_path / "rows.jsonl.gz", LINES.encode())
    fit = ("head", "fit", source, "--text-field", "body", "--checkpoint", volume, "--json")
    here = json.loads(neuron(*fit, "--name", "here").stdout)
    one = json.loads(neuron(*fit, "--name", "one", "--unit-only").stdout)
    assert one["unit_only"]
    assert one["nonzero_units"] == 1
    settings = {
        "NEURON_CHECKPOINT_DIR": str(volume),
        "NEURON_WORKER_HEADS_DIR": str(volume / "heads"),
        "NEURON_WORKER_POLL_S": "0.2",
        "NEURON_WORKER_DTYPE": "auto",
    }
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        examples = [{"text": text, "label": label} for text, label in ROWS]
        there = client.post("/heads", json={"name": "there", "examples": examples}).raise_for_status().json()
        differing = {"name", "created", "top_units"}
        assert {k: v for k, v in here.items() if k not in differing} == {
            k: v for k, v in there.items() if k not in differing
        }
        for mine, theirs in zip(here["top_units"][:3], there["top_units"][:3], strict=True):
            assert mine["unit"] == theirs["unit"]
            assert mine["weights"] == pytest.approx(theirs["weights"], rel=1e-2)

        listed = json.loads(neuron("head", "list", "--checkpoint", volume, "--json").stdout)
        assert client.get("/heads").json() == listed
        assert [head["name"] for head in listed["heads"]] == ["here", "one", "there"]
        # A worker knows what comes and goes here.
        assert client.post("/classify", json={"text": "aaaaaa", "head": "here"}).status_code == 200
        neuron("head", "delete", "here", "--checkpoint", volume)
        assert client.post("/classify", json={"text": "aaaaaa", "head": "here"}).status_code == 404
        wait_until(lambda: httpx.get(stack.url + "/heads/here").status_code == 404, what="its going")


def test_a_head_of_another_checkpoint_says_so(neuron: Neuron, volume: Path, labelled: Path) -> None:
    neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", volume)
    publish_tiny(volume, step=2, seed=2)
    assert "tiny step 1, not this checkpoint" in neuron("head", "list", "--checkpoint", volume).stdout
    refused = neuron("classify", "x", "--head", "mine", "--checkpoint", volume)
    assert refused.exit_code == 1
    assert "fitted on the features of tiny step 1, and tiny step 2 is served" in refused.stderr
    old = volume / "tiny" / "step-1"  # the same heads for a checkpoint by its own name
    assert neuron("classify", "x", "--head", "mine", "--checkpoint", old).exit_code == 0


def test_the_shipped_model_has_its_heads_where_a_worker_keeps_them(
    neuron: Neuron, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = head_store.names(tmp_path / "heads")
    assert not head
    monkeypatch.setenv("NEURON_DATA_DIR", str(tmp_path))
    publish_tiny(tmp_path / "volume", step=1)
    monkeypatch.setattr(volumes, "SHIPPED", tmp_path / "volume")
    assert neuron("head", "list", "--checkpoint", tmp_path / "volume").exit_code == 0
    labelled = write_packed(tmp_path / "rows.csv", CSV.encode())
    neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", tmp_path / "volume")
    assert list(head_store.names(tmp_path / "heads")) == ["mine"]
    monkeypatch.setenv("NEURON_NO_SUCH", "1")
    refused = neuron("head", "list", "--checkpoint", tmp_path / "volume")
    assert refused.exit_code == 1
    assert "NEURON_NO_SUCH" in refused.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (CSV, ["--name", "sentiment"], "the checkpoint has a head 'sentiment' of its own"),
        (CSV, ["--name", "Mine"], "name: "),
        (
            CSV,
            ["--name", "mine", "--label-field", "verdict"],
            "the label field 'verdict' is not there (--label-field); there are: ",
        ),
        ("label,text\na,x\na,y\n", ["--name", "mine"], "all 2 examples have the label 'a'"),
        ("label,text\na,x\nb, \n", ["--name", "mine"], "line 3: the text is empty"),
        ("label,text\na,x\nb,x\n", ["--name", "mine"], "none of 48 units differs"),
        ("label,text\na,x\nb,y\nc,z\n", ["--name", "mine", "--unit-only"], "here are 3"),
        (CSV, ["--name", "mine", "--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    neuron: Neuron, volume: Path, tmp_path: Path, content: str, arguments: list[str], words: str
) -> None:
    source = write_packed(tmp_path / "rows.csv", content.encode())
    refused = neuron("head", "fit", source, "--checkpoint", volume, *arguments)
    assert refused.exit_code == 1
    assert words in refused.stderr
    assert head_store.names(volume / "heads") == {}


def test_a_name_is_never_overwritten(neuron: Neuron, volume: Path, labelled: Path) -> None:
    assert neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", volume).exit_code == 0
    before = head_store.fingerprint(volume / "heads", "mine")
    refused = neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", volume)
    assert refused.exit_code == 1
    assert "`neuron head delete mine`, or another --name" in refused.stderr
    assert head_store.fingerprint(volume / "heads", "mine") == before


def test_what_is_not_there_cannot_be_deleted_and_what_is_damaged_can(
    neuron: Neuron, volume: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "../mine"):
        refused = neuron("head", "delete", name, "--checkpoint", volume)
        assert refused.exit_code == 1
        assert "holds no head" in refused.stderr
    assert not (volume / "heads").exists()
    neuron("head", "fit", labelled, "--name", "mine", "--checkpoint", volume)
    shutil.copy(volume / "heads" / "mine.json", volume / "heads" / "copy.json")
    listed = neuron("head", "list", "--checkpoint", volume)
    assert listed.stdout.count("\n") == 1
    assert "left out: " in listed.stderr
    monkeypatch.setattr(head_store, "MAX_HEADS", 1)  # also where there are too many to list
    assert neuron("head", "delete", "copy", "--checkpoint", volume).exit_code == 0
    assert list(head_store.names(volume / "heads")) == ["mine"]

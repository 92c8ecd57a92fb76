"""Heads in files: whole or not at all, never overwritten, refused by name when somebody else wrote them."""

import json
import multiprocessing
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoints import head_store
from model.checkpoints.head_store import HeadExistsError, HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import StoredHead, stored_head
from model.heads.classifier import head_probabilities
from model.heads.cross_validation import Fitted, accuracy_interval
from tests.support.checkpoints import MANIFEST as VALID
from tests.support.checkpoints import UNITS
from tests.support.examples import examples
from tests.support.features import FEATURES, assert_probabilities
from tests.support.hostile import damaged, distorted

MANIFEST = replace(VALID, sha256={"model.safetensors": "ab" * 32})
FITTED = Fitted({1: [0.5], 3: [-2.0]}, [0.25], 0.125, 5, 0.75, 0.05, [3, 1], [[9, 2], [3, 6]])
HEAD = stored_head("mine", MANIFEST, FITTED, ["no", "yes"], "mean", examples=20, created=1e9, made_by="a-job-of-a-test")
FUZZ = settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))


def write(directory: Path, stored: StoredHead = HEAD) -> None:
    with head_store.alone_in(directory):
        head_store.create(directory, stored)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "volume" / "heads"
    write(directory)
    write(directory, replace(HEAD, name="other", made_by=""))
    assert head_store.read(directory, "mine") == HEAD
    assert head_store.names(directory).keys() == {"mine", "other"}
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "mine.json", "other.json"]
    assert HEAD.belongs_to(MANIFEST)
    assert not HEAD.belongs_to(replace(MANIFEST, sha256={"model.safetensors": "cd" * 32}))
    assert HEAD.report() == {
        "name": "mine", "kind": "linear", "checkpoint": {"name": MANIFEST.name, "step": MANIFEST.step},
        "labels": ["no", "yes"],
        "examples": 20, "unit_only": False, "pooling": "mean", "accuracy": 0.75,
        "accuracy_interval": accuracy_interval(0.75, 20), "accuracy_deviation": 0.05, "folds": 5,
        "confusion": [[9, 2], [3, 6]],
        "c": 0.125, "nonzero_units": 2,
        "top_units": [{"unit": 3, "weights": [-2.0]}, {"unit": 1, "weights": [0.5]}],
        "created": 1e9,
    }  # fmt: skip


def test_without_an_estimate(tmp_path: Path) -> None:
    fitted = replace(FITTED, accuracy=None, accuracy_deviation=None, folds=0)
    write(tmp_path, replace(HEAD, head=fitted.head(["no", "yes"], "cell")))
    report = head_store.read(tmp_path, "mine").report()
    assert (report["accuracy"], report["accuracy_deviation"], report["folds"]) == (None, None, 0)
    assert report["accuracy_interval"] is None


def test_a_file_of_version_1_is_read_and_has_no_confusion_matrix(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "mine.json"
    record = json.loads(path.read_text())
    assert record["format_version"] == 2
    del record["confusion"]
    path.write_text(json.dumps(record | {"format_version": 1}))
    assert head_store.read(tmp_path, "mine") == replace(HEAD, confusion=None)


def test_a_head_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    before = head_store.fingerprint(tmp_path, "mine")
    with pytest.raises(HeadExistsError, match="delete it first"):
        write(tmp_path, replace(HEAD, examples=21, confusion=None))
    assert head_store.fingerprint(tmp_path, "mine") == before
    with head_store.alone_in(tmp_path):
        head_store.delete(tmp_path, "mine")
        with pytest.raises(NoSuchHeadError):
            head_store.delete(tmp_path, "mine")
    write(tmp_path, replace(HEAD, examples=21, confusion=None))
    assert head_store.read(tmp_path, "mine").examples == 21


def _race(directory: Path, examples: int, reported: "multiprocessing.Queue[tuple[int, str]]") -> None:
    for name in map(str, range(30)):
        try:
            write(directory, replace(HEAD, name=name, examples=examples, confusion=None))
            reported.put((examples, name))
        except HeadExistsError:
            pass


def test_of_two_writers_of_a_name_one_is_told_that_it_won(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    reported = spawn.Queue()
    writers = [spawn.Process(target=_race, args=(tmp_path, number, reported)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    won = [reported.get(timeout=180) for _ in range(30)]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert reported.empty()
    assert {name: examples for examples, name in won} == {
        name: head_store.read(tmp_path, name).examples for name in head_store.names(tmp_path)
    }


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "-a", ".a", "a b", "a" * 65, "a\n", "ä", "a\0"])
def test_no_other_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(HeadStoreError, match="use 1 to 64 of"):
        write(tmp_path, replace(HEAD, name=name))
    for act in (head_store.read, head_store.fingerprint, head_store.delete):
        with pytest.raises(NoSuchHeadError, match="holds no head"):
            act(tmp_path, name)


def test_files_by_other_names_are_no_heads(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (".mine.0123.partial", "UPPER.json", "mine.txt", ".json", "a b.json"):
        shutil.copy(tmp_path / "mine.json", tmp_path / name)
    assert list(head_store.names(tmp_path)) == ["mine"]
    shutil.copy(tmp_path / "mine.json", tmp_path / "yours.json")
    with pytest.raises(HeadStoreError, match="it is a head 'mine'"):
        head_store.read(tmp_path, "yours")


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "heads"
    write(outside)
    directory.mkdir()
    (directory / "mine.json").symlink_to(outside / "mine.json")
    with pytest.raises(HeadStoreError, match="it is a link"):
        head_store.read(directory, "mine")
    with pytest.raises(HeadExistsError):
        write(directory)
    with head_store.alone_in(directory):
        head_store.delete(directory, "mine")  # the link
    assert head_store.read(outside, "mine") == HEAD

    (directory / "dangling.json").symlink_to(outside / "nothing.json")
    with pytest.raises(HeadExistsError):
        write(directory, replace(HEAD, name="dangling"))
    assert not (outside / "nothing.json").exists()

    (directory / ".lock").unlink()
    (directory / ".lock").symlink_to(outside / "made")
    with pytest.raises(HeadStoreError, match="cannot be written"):
        write(directory)
    assert not (outside / "made").exists()

    (tmp_path / "linked").symlink_to(outside)
    for act in (head_store.names, head_store.check_writable, write, lambda where: head_store.read(where, "mine")):
        with pytest.raises(HeadStoreError, match="is a link to"):
            act(tmp_path / "linked")


def test_no_pipe_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.json")
    with pytest.raises(HeadStoreError, match="not a plain file"):
        head_store.read(tmp_path, "mine")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(head_store, "_MAX_FILE_BYTES", 100)
    with pytest.raises(HeadStoreError, match="more than the 100 allowed"):
        head_store.read(tmp_path, "mine")
    with pytest.raises(HeadStoreError, match="more than the 100 allowed: use fewer labels"):
        write(tmp_path, replace(HEAD, name="other"))
    monkeypatch.undo()
    monkeypatch.setattr(head_store, "MAX_HEADS", 2)
    write(tmp_path, replace(HEAD, name="second"))
    with pytest.raises(HeadStoreError, match="holds 2 heads, which is the most"):
        write(tmp_path, replace(HEAD, name="third"))
    shutil.copy(tmp_path / "mine.json", tmp_path / "third.json")
    with pytest.raises(HeadStoreError, match="more than 2 heads"):
        head_store.names(tmp_path)


def test_a_directory_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert head_store.names(tmp_path / "nowhere") == {}
    head_store.check_writable(tmp_path / "nowhere" / "below")
    with pytest.raises(NoSuchHeadError):
        head_store.read(tmp_path / "nowhere", "mine")
    (tmp_path / "file").touch()
    with pytest.raises(HeadStoreError, match="cannot be written"):
        write(tmp_path / "file")


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    for bad in (
        replace(HEAD, head=replace(HEAD.head, bias=[float("nan")])),
        replace(HEAD, head=replace(HEAD.head, labels=["no", "\x1b[2J"])),
        replace(HEAD, head=replace(HEAD.head, labels=["no", "y" * 101])),
        replace(HEAD, step=-1),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - a fault of ours, in many words
            write(tmp_path, bad)
    assert head_store.names(tmp_path) == {}


RECORD = json.loads(json.dumps(asdict(HEAD) | {"format_version": 1}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 3}, "format version 3, this program reads 1 and 2"),
        ({"format_version": True}, "format version True"),
        ({"name": "other"}, "it is a head 'other'"),
        ({"units": 3}, "outside 0 to 2"),
        ({"units": 10**9}, "units is"),
        ({"sha256": "AB" * 32}, "sha256"),
        ({"checkpoint": "../x"}, "checkpoint"),
        ({"step": 1.5}, "step is 1.5"),
        ({"examples": -1}, "examples is -1"),
        ({"unit_only": 1}, "unit_only"),
        ({"top_units": [2]}, "top_units"),
        ({"confusion": []}, "confusion is not 2 rows of 2"),
        ({"confusion": "ab"}, "confusion is not 2 rows of 2"),
        ({"confusion": ["ab", "cd"]}, "confusion is not 2 rows of 2"),
        ({"confusion": [[20, 0], [0]]}, "confusion is not 2 rows of 2"),
        ({"confusion": [[20, 0], [0, 0], [0, 0]]}, "confusion is not 2 rows of 2"),
        ({"confusion": [[20.0, 0], [0, 0]]}, "confusion does not count 20 examples"),
        ({"confusion": [[19, True], [0, 0]]}, "confusion does not count 20 examples"),
        ({"confusion": [[21, -1], [0, 0]]}, "confusion does not count 20 examples"),
        ({"confusion": [[9, 2], [3, 7]]}, "confusion does not count 20 examples"),
        ({"top_units": [True]}, "top_units"),
        ({"created": None}, "created"),
        ({"made_by": "x" * 65}, "made_by"),
        ({"surprise": 1}, "surprise"),
        ({"head": []}, "head is not a JSON object"),
    ],
)
def test_each_field_is_checked(tmp_path: Path, change: dict[str, object], words: str) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(RECORD))
    assert head_store.read(tmp_path, "mine") == HEAD
    (tmp_path / "mine.json").write_text(json.dumps(RECORD | change))
    with pytest.raises(HeadStoreError, match="is not a valid head") as caught:
        head_store.read(tmp_path, "mine")
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@given(content=distorted(RECORD) | damaged(json.dumps(RECORD).encode()))
@FUZZ
def test_whatever_a_file_holds_is_a_head_or_is_refused(scratch: Path, content: bytes) -> None:
    (scratch / "mine.json").write_bytes(content)
    try:
        stored = head_store.read(scratch, "mine")
    except HeadStoreError as error:
        assert str(error).isprintable()  # noqa: PT017 - or it is a head
        return
    json.dumps(stored.report(), allow_nan=False)
    stored.belongs_to(MANIFEST)
    if stored.units == UNITS:
        for features in FEATURES:
            assert_probabilities(stored.head, features)


@given(st.data())
@settings(FUZZ, max_examples=examples(50))
def test_a_stored_head_says_what_the_fit_said(scratch: Path, data: st.DataObject) -> None:
    value = st.floats(-1e3, 1e3, width=32)
    weights = data.draw(st.dictionaries(st.integers(0, UNITS - 1), st.lists(value, min_size=3, max_size=3)))
    fitted = Fitted(weights, [0.0, 1.0, 2.0], 1.0, 5, 0.5, 0.1, list(weights)[:10], [[3, 0, 0]] * 3)
    stored = stored_head("mine", MANIFEST, fitted, ["a", "b", "c"], "tanh", 9, 0.0, "")
    (scratch / "mine.json").unlink(missing_ok=True)
    write(scratch, stored)
    for features in FEATURES:
        said = head_probabilities(head_store.read(scratch, "mine").head, features)
        assert (said == head_probabilities(stored.head, features)).all()

"""A manifest reads back as it was written; one that somebody else wrote is checked field by field, or refused."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoints import checkpoint
from model.checkpoints.checkpoint import CheckpointError, read, read_manifest
from model.checkpoints.manifest import MAX_UNITS, WEIGHTS, Manifest
from model.checkpoints.volumes import publish
from model.heads.classifier import Head
from model.heads.histogram import Histogram
from model.heads.unit import Calibration
from model.network.language_model import Architecture
from tests.support.checkpoints import MANIFEST, UNITS, Json, edit, tiny_model
from tests.support.examples import examples


def test_manifest_fields_on_disk(published: Path) -> None:
    record = json.loads((published / "manifest.json").read_text())
    assert record["format_version"] == 3
    assert record["architecture"] == {"cell": "mlstm", "units": UNITS, "embedding_size": 4, "steepness": 1.0}
    assert record["sentiment"] == {"unit": 3, "polarity": -1, "center": 0.125, "scale": 0.75}
    assert record["unit_histogram"] == {
        "edges": [-1.5, 0.25, 2.0], "counts": {"negative": [7, 2], "positive": [0, 8]}, "data": "texts"
    }  # fmt: skip
    assert record["heads"]["sentiment"]["weights"] == {"0": [0.5], "7": [-1.25]}
    assert sorted(path.name for path in published.iterdir()) == ["manifest.json", "model.safetensors"]
    assert (published.parents[1] / "LATEST").read_text() == "tiny-model.v1/step-120\n"


def test_a_bare_manifest_reads_back(tmp_path: Path) -> None:
    bare = Manifest("bare", 0, MANIFEST.architecture, 0, None, sha256={})
    found = read(publish(tmp_path, tiny_model(), bare)).manifest
    assert (found.sentiment, found.heads, found.feature_mean, found.bits_per_byte) == (None, {}, None, None)


def test_a_manifest_from_before_steepness_reads_as_one(copied: Path) -> None:
    edit(copied, lambda record: record["architecture"].pop("steepness"))
    assert read(copied).manifest.architecture.steepness == 1.0


def test_a_manifest_of_version_1_is_read(copied: Path) -> None:
    def older(record: Json) -> None:
        record["format_version"] = 1
        del record["familiarity"], record["unit_histogram"]
        for head in record["heads"].values():
            del head["calibration"]

    edit(copied, older)
    found = read_manifest(copied)
    assert found.familiarity is None
    assert [head.calibration for head in found.heads.values()] == [None, None]


def test_a_manifest_of_version_2_is_read_and_has_no_histogram(copied: Path) -> None:
    def older(record: Json) -> None:
        record["format_version"] = 2
        del record["unit_histogram"]

    edit(copied, older)
    found = read_manifest(copied)
    assert found == replace(MANIFEST, sha256=found.sha256, unit_histogram=None)


def test_a_histogram_needs_a_sentiment_unit(copied: Path) -> None:
    edit(copied, lambda record: record.update(sentiment=None))
    with pytest.raises(CheckpointError, match="there is a histogram, but no sentiment unit"):
        read_manifest(copied)


def test_a_histogram_has_a_hundred_bins_at_most(copied: Path) -> None:
    def bins(record: Json, count: int) -> None:
        counts = dict.fromkeys(("negative", "positive"), [1] * count)
        record["unit_histogram"].update(edges=list(range(count + 1)), counts=counts)

    edit(copied, lambda record: bins(record, 100))
    assert read_manifest(copied).unit_histogram is not None
    edit(copied, lambda record: bins(record, 101))
    with pytest.raises(CheckpointError, match="edges are not 2 to 101 rising numbers"):
        read_manifest(copied)


def test_a_head_that_says_nothing_of_its_features_takes_cells(copied: Path) -> None:
    edit(copied, lambda record: record["heads"]["sentiment"].pop("pooling"))
    assert read_manifest(copied).heads["sentiment"].pooling == "cell"


def put(*path: str) -> Callable[[Json, object], None]:
    def change(record: Json, value: object) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


HOSTILE: list[tuple[tuple[str, ...], object]] = [
    (("name",), "../../etc"),
    (("name",), "/etc/passwd"),
    (("name",), "a/b"),
    (("name",), None),
    (("name",), ["tiny"]),
    (("step",), -1),
    (("step",), 1.5),
    (("step",), "120"),
    (("step",), True),
    (("step",), 10**400),
    (("bytes_seen",), "many"),
    (("bytes_seen",), -1),
    (("bits_per_byte",), float("nan")),
    (("bits_per_byte",), "low"),
    (("sha256",), None),
    (("sha256",), []),
    (("sha256",), "0" * 64),
    (("sha256",), {}),
    (("sha256",), {WEIGHTS: None}),
    (("sha256",), {WEIGHTS: "0" * 64, "../../etc/passwd": "0" * 64}),
    (("notes",), {"deep": []}),
    (("notes",), "half of a pair \ud83d"),
    (("notes",), "\x1b]0;a title for the terminal\x07"),
    (("format_version",), 0),
    (("format_version",), 4),
    (("format_version",), None),
    (("format_version",), True),
    (("format_version",), 1.0),
    (("format_version",), "1"),
    (("unknown",), 1),
    (("familiarity",), []),
    (("familiarity",), {"lengths": [16]}),
    (("familiarity", "lengths"), []),
    (("familiarity", "lengths"), [64, 16]),
    (("familiarity", "lengths"), [16, 16]),
    (("familiarity", "lengths"), [0, 16]),
    (("familiarity", "lengths"), [16, 2.0]),
    (("familiarity", "lengths"), [16, 32, 64]),
    (("familiarity", "lengths"), list(range(1, 66))),
    (("familiarity", "bits"), [4.0]),
    (("familiarity", "bits"), [4.0, float("nan")]),
    (("familiarity", "bits"), [4.0, "2"]),
    (("familiarity", "share"), 1.0),
    (("familiarity", "share"), None),
    (("familiarity", "texts"), 0),
    (("familiarity", "texts"), [900]),
    (("familiarity", "texts"), [900, 0]),
    (("familiarity", "data"), "half of a pair \ud83d"),
    (("unit_histogram",), []),
    (("unit_histogram",), {"edges": [0, 1]}),
    (("unit_histogram", "edges"), [0.0]),
    (("unit_histogram", "edges"), "abc"),
    (("unit_histogram", "edges"), [-1.5, 2.0]),
    (("unit_histogram", "edges"), [-1.5, -1.5, 2.0]),
    (("unit_histogram", "edges"), [2.0, 0.25, -1.5]),
    (("unit_histogram", "edges"), [-1.5, float("nan"), 2.0]),
    (("unit_histogram", "edges"), [-1.5, "0", 2.0]),
    (("unit_histogram", "counts"), [[7, 2], [0, 8]]),
    (("unit_histogram", "counts"), {"negative": [7, 2]}),
    (("unit_histogram", "counts"), {"negative": [7, 2], "positive": [0, 8], "neutral": [1, 1]}),
    (("unit_histogram", "counts", "positive"), [8]),
    (("unit_histogram", "counts", "positive"), [0, -8]),
    (("unit_histogram", "counts", "positive"), [0, 8.0]),
    (("unit_histogram", "counts", "positive"), [0, True]),
    (("unit_histogram", "counts", "positive"), [0, 10**15]),
    (("unit_histogram", "data"), "x" * 1001),
    (("unit_histogram", "data"), "\x1b[2J"),
    (("unit_histogram", "data"), None),
    (("unit_histogram", "surprise"), 1),
    (("heads", "stars", "calibration"), []),
    (("heads", "stars", "calibration"), {"method": "platt"}),
    (("heads", "stars", "calibration", "method"), "guess"),
    (("heads", "stars", "calibration", "method"), ["platt"]),
    (("heads", "stars", "calibration", "rows"), 0),
    (("heads", "stars", "calibration", "rows"), 1.5),
    (("heads", "stars", "calibration", "data"), 3),
    (("heads", "stars", "calibration", "surprise"), 3),
    (("architecture",), None),
    (("architecture",), []),
    (("architecture",), "mlstm"),
    (("architecture", "cell"), "transformer"),
    (("architecture", "cell"), ["mlstm"]),
    (("architecture", "cell"), {}),
    (("architecture", "units"), UNITS + 1),
    (("architecture", "units"), UNITS - 1),
    (("architecture", "units"), 0),
    (("architecture", "units"), -8),
    (("architecture", "units"), 10**12),
    (("architecture", "units"), 8.0),
    (("architecture", "units"), True),
    (("architecture", "units"), "8"),
    (("architecture", "embedding_size"), 5),
    (("architecture", "embedding_size"), None),
    (("architecture", "layers"), 2),
    (("architecture", "units"), MAX_UNITS + 1),
    (("architecture", "steepness"), 0.0),
    (("architecture", "steepness"), 101.0),
    (("architecture", "steepness"), -1.0),
    (("architecture", "steepness"), float("inf")),
    (("architecture", "steepness"), True),
    (("architecture", "steepness"), "1"),
    (("architecture", "steepness"), None),
    (("sentiment",), []),
    (("sentiment",), {}),
    (("sentiment",), "3"),
    (("sentiment", "unit"), UNITS),
    (("sentiment", "unit"), -1),
    (("sentiment", "unit"), 2.0),
    (("sentiment", "polarity"), 0),
    (("sentiment", "polarity"), []),
    (("sentiment", "polarity"), True),
    (("sentiment", "center"), 1e31),
    (("sentiment", "scale"), 0.0),
    (("sentiment", "scale"), -1.0),
    (("sentiment", "scale"), float("inf")),
    (("sentiment", "scale"), 10**400),
    (("sentiment", "center"), float("nan")),
    (("sentiment", "center"), None),
    (("heads",), []),
    (("heads",), "sentiment"),
    (("heads",), None),
    (("heads", "../x"), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "sentiment"), None),
    (("heads", "sentiment"), []),
    (("heads", "sentiment"), {}),
    (("heads", "sentiment", "labels"), ["only"]),
    (("heads", "sentiment", "labels"), ["same", "same"]),
    (("heads", "stars", "labels"), ["same", "same", "other"]),
    (("heads", "sentiment", "labels"), [1, 2]),
    (("heads", "sentiment", "labels"), [[], []]),
    (("heads", "sentiment", "labels"), "ab"),
    (("heads", "sentiment", "labels"), 2),
    (("heads", "sentiment", "labels"), ["good", "b\ud800d"]),
    (("heads", "sentiment", "labels"), ["good", "b\0d"]),
    (("heads", "sentiment", "labels"), ["good", "bad" * 30_000]),
    (("heads", "a" * 65), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "a\0"), {"labels": ["a", "b"], "weights": {}, "bias": [0.0]}),
    (("heads", "sentiment", "weights"), []),
    (("heads", "sentiment", "weights"), None),
    (("heads", "sentiment", "weights"), {"8": [1.0]}),
    (("heads", "sentiment", "weights"), {"-1": [1.0]}),
    (("heads", "sentiment", "weights"), {"one": [1.0]}),
    (("heads", "sentiment", "weights"), {"01": [1.0]}),
    (("heads", "sentiment", "weights"), {" 1": [1.0]}),
    (("heads", "sentiment", "weights"), {"\u0661": [1.0]}),  # 1 in Arabic digits
    (("heads", "sentiment", "weights"), {"1" * 6000: [1.0]}),
    (("heads", "sentiment", "weights"), {"1": {"0": 1.0}}),
    (("heads", "sentiment", "weights"), {"1": [1e31]}),
    (("heads", "sentiment", "weights"), {"1": 1.0}),
    (("heads", "sentiment", "weights"), {"1": [1.0, 2.0]}),
    (("heads", "sentiment", "weights"), {"1": [None]}),
    (("heads", "sentiment", "weights"), {"1": [10**400]}),
    (("heads", "sentiment", "bias"), []),
    (("heads", "sentiment", "pooling"), "max"),
    (("heads", "sentiment", "pooling"), None),
    (("heads", "sentiment", "pooling"), ["cell"]),
    (("heads", "sentiment", "bias"), 0.0),
    (("heads", "sentiment", "bias"), [float("nan")]),
    (("heads", "sentiment", "c"), "strong"),
    (("heads", "sentiment", "metrics"), []),
    (("heads", "sentiment", "metrics"), {"accuracy": "good"}),
    (("heads", "sentiment", "extra"), 1),
    (("feature_mean",), [0.0] * (UNITS + 1)),
    (("feature_mean",), [[]] * UNITS),
    (("feature_mean",), 0.0),
    (("feature_mean",), "12345678"),
    (("feature_scale",), [float("inf")] * UNITS),
    (("feature_scale",), {str(unit): 1.0 for unit in range(UNITS)}),
]


@pytest.mark.parametrize(
    ("path", "value"), HOSTILE, ids=[f"{'.'.join(path)}={value!r}"[:60] for path, value in HOSTILE]
)
def test_hostile_manifests_are_refused(copied: Path, path: tuple[str, ...], value: object) -> None:
    edit(copied, lambda record: put(*path)(record, value))
    with pytest.raises(CheckpointError):
        read(copied)


@pytest.mark.parametrize(
    "field", ["name", "step", "architecture", "bytes_seen", "bits_per_byte", "sha256", "format_version"]
)
def test_a_manifest_without_a_field_that_it_needs_is_refused(copied: Path, field: str) -> None:
    edit(copied, lambda record: record.pop(field))
    with pytest.raises(CheckpointError, match="manifest"):
        read_manifest(copied)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b"[" * 1_000_000,
        b'{"heads":' * 100_000,
        b'{"step": ' + b"9" * 100_000 + b"}",
        b'{"format_version": 2, "format_version": 2}',
        b'{"heads": {"a": 1, "a": 1}}',
        b'{"step": Infinity}',
        '{"notes": "wide"}'.encode("utf-16"),
    ],
    ids=[
        *("empty", "open", "null", "list", "text", "not UTF-8", "deep list", "deep object", "long number"),
        *("a key twice", "an inner key twice", "no number", "UTF-16"),
    ],
)
def test_what_is_no_manifest_is_refused(copied: Path, content: bytes) -> None:
    (copied / checkpoint.MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a valid manifest"):
        read_manifest(copied)


def test_a_huge_manifest_is_refused_unread(copied: Path) -> None:
    os.truncate(copied / checkpoint.MANIFEST, 2**34)  # sparse: takes no space, but would take all memory
    with pytest.raises(CheckpointError, match="more than"):
        read_manifest(copied)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


FIELDS = [
    *[(name,) for name in Manifest.__dataclass_fields__],
    *[("architecture", name) for name in Architecture.__dataclass_fields__],
    *[("sentiment", name) for name in Calibration.__dataclass_fields__],
    *[("unit_histogram", name) for name in Histogram.__dataclass_fields__],
    *[("heads", "stars", name) for name in Head.__dataclass_fields__],
    ("heads", "stars", "weights", "2"),
]


@given(path=st.sampled_from(FIELDS), value=ANYTHING)
@settings(deadline=None, max_examples=examples(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_field_reads_or_is_refused(
    published: Path, copied: Path, path: tuple[str, ...], value: object
) -> None:
    shutil.copy(published / checkpoint.MANIFEST, copied / checkpoint.MANIFEST)
    edit(copied, lambda record: put(*path)(record, value))
    with suppress(CheckpointError):
        read(copied)


@given(position=st.integers(0, 2**20), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_manifest_reads_or_is_refused(published: Path, copied: Path, position: int, byte: int) -> None:
    content = bytearray((published / checkpoint.MANIFEST).read_bytes())
    content[position % len(content)] = byte
    (copied / checkpoint.MANIFEST).write_bytes(content)
    with suppress(CheckpointError):
        read(copied)

"""What is known of a checkpoint beside its weights: `Manifest`, and how its JSON is read.

Anybody may have written it, so its size is bounded, its JSON strict and every field checked. Heads that users fit have
the same form (head_store.py).
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

from model.checkpoints.untrusted import is_finite, is_text, is_whole, parse_json, require
from model.heads.classifier import SENTIMENT_LABELS, Calibrated, Head, Method
from model.heads.familiarity import Familiarity
from model.heads.histogram import MAX_BINS, Histogram
from model.heads.pooling import Pooling
from model.heads.unit import Calibration
from model.network.cells import CellName
from model.network.language_model import Architecture

FORMAT_VERSION = 3
_READ = (1, 2, 3)  # version 1 knew neither calibration of heads nor familiarity, version 2 no histogram of the unit
WEIGHTS = "model.safetensors"
MAX_UNITS = 16_384  # four times the published model: 1.4 G parameters, 5.6 GB in float32
MAX_STEPS = 10**15  # and bytes seen
# A head on all of MAX_UNITS for five labels takes 2 MB, mean and scale one; parsing may take 25 times as much.
MAX_MANIFEST_BYTES = 8 * 2**20
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")

_UNIT = re.compile(r"0|[1-9][0-9]{0,5}")
_MAX_LENGTHS = 64
_MAX_LABEL_CHARACTERS = 65_536  # of all heads together: a worker reports them with every heartbeat
_MAX_DATA_CHARACTERS = 1000  # what a histogram's texts were: the same
MAX_STEEPNESS = 100.0


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint beside its weights."""

    name: str
    step: int
    architecture: Architecture
    bytes_seen: int
    bits_per_byte: float | None  # on held-out text
    sha256: dict[str, str]
    sentiment: Calibration | None = None
    heads: dict[str, Head] = field(default_factory=dict)
    feature_mean: list[float] | None = None  # (units,), over the texts the heads were fitted on
    feature_scale: list[float] | None = None  # (units,), standard deviation over the same
    familiarity: Familiarity | None = None
    notes: str = ""
    unit_histogram: Histogram | None = None  # of the sentiment unit, over texts that it was not calibrated to


def parse_manifest(content: bytes) -> Manifest:
    """Raises ValueError, TypeError, KeyError or AttributeError for anything but a manifest."""
    raw = parse_json(content)
    require(isinstance(raw, dict), "not a JSON object")
    version = raw.pop("format_version", None)
    require(
        is_whole(version) and version in _READ,
        f"format version {version!r}, this program reads {' and '.join(map(str, _READ))}",
    )
    architecture = Architecture(**raw.pop("architecture"))
    require(architecture.cell in get_args(CellName), f"cell {architecture.cell!r} is unknown")
    units = architecture.units
    for label, value in (("units", units), ("embedding_size", architecture.embedding_size)):
        require(is_whole(value) and 1 <= value <= MAX_UNITS, f"{label} is {value!r}, not 1 to {MAX_UNITS}")
    steepness = architecture.steepness
    require(
        is_finite(steepness) and 0 < steepness <= MAX_STEEPNESS,
        f"steepness is {steepness!r}, not a number above 0 and at most {MAX_STEEPNESS:g}",
    )
    calibration, histogram = raw.pop("sentiment", None), raw.pop("unit_histogram", None)
    familiarity = raw.pop("familiarity", None)
    heads = {name: parse_head(name, units, head) for name, head in raw.pop("heads", {}).items()}
    characters = sum(len(label) for head in heads.values() for label in head.labels)
    require(
        characters <= _MAX_LABEL_CHARACTERS, f"labels have {characters} characters, at most {_MAX_LABEL_CHARACTERS}"
    )
    manifest = Manifest(
        architecture=architecture,
        sentiment=None if calibration is None else Calibration(**calibration),
        unit_histogram=None if histogram is None else Histogram(**histogram),
        heads=heads,
        familiarity=None if familiarity is None else Familiarity(**familiarity),
        **raw,
    )
    require(bool(NAME.fullmatch(manifest.name)), f"name {manifest.name!r} is not allowed")
    for label, count in (("step", manifest.step), ("bytes_seen", manifest.bytes_seen)):
        require(is_whole(count) and 0 <= count < MAX_STEPS, f"{label} is {count!r}")
    require(manifest.bits_per_byte is None or is_finite(manifest.bits_per_byte), "bits_per_byte is not a number")
    require(
        manifest.sha256.keys() == {WEIGHTS} and bool(SHA256.fullmatch(manifest.sha256[WEIGHTS])),
        f"sha256 is not that of {WEIGHTS}",
    )
    require(is_text(manifest.notes), "notes are not text")
    if manifest.sentiment is not None:
        unit, scale, polarity = manifest.sentiment.unit, manifest.sentiment.scale, manifest.sentiment.polarity
        require(is_whole(unit) and 0 <= unit < units, f"sentiment unit is {unit!r}, the model has {units} units")
        require(is_whole(polarity) and polarity in (-1, 1), f"polarity is {polarity!r}, not -1 or 1")
        require(
            is_finite(scale) and scale > 0 and is_finite(manifest.sentiment.center),
            "calibration is not finite and positive",
        )
    if manifest.unit_histogram is not None:
        require(manifest.sentiment is not None, "there is a histogram, but no sentiment unit")
        _check_histogram(manifest.unit_histogram)
    if manifest.familiarity is not None:
        _check_familiarity(manifest.familiarity)
    for label, vector in (("feature_mean", manifest.feature_mean), ("feature_scale", manifest.feature_scale)):
        require(
            vector is None or (isinstance(vector, list) and len(vector) == units and all(map(is_finite, vector))),
            f"{label} is not {units} numbers",
        )
    return manifest


def _check_histogram(histogram: Histogram) -> None:
    edges, counts, data = histogram.edges, histogram.counts, histogram.data
    require(
        isinstance(edges, list)
        and 2 <= len(edges) <= MAX_BINS + 1
        and all(map(is_finite, edges))
        and all(one < other for one, other in pairwise(edges)),
        f"unit_histogram: edges are not 2 to {MAX_BINS + 1} rising numbers",
    )
    require(
        isinstance(counts, dict) and counts.keys() == set(SENTIMENT_LABELS),
        f"unit_histogram: counts are not of {' and '.join(SENTIMENT_LABELS)}",
    )
    require(
        all(
            isinstance(of, list)
            and len(of) == len(edges) - 1
            and all(is_whole(count) and 0 <= count < MAX_STEPS for count in of)
            for of in counts.values()
        ),
        f"unit_histogram: counts are not {len(edges) - 1} whole numbers each",
    )
    require(
        is_text(data) and len(data) <= _MAX_DATA_CHARACTERS,
        f"unit_histogram: what its texts were is not text of at most {_MAX_DATA_CHARACTERS} characters",
    )


def _check_familiarity(familiarity: Familiarity) -> None:
    lengths, limits = familiarity.lengths, familiarity.bits
    require(
        isinstance(lengths, list)
        and 1 <= len(lengths) <= _MAX_LENGTHS
        and all(is_whole(length) and 0 < length < MAX_STEPS for length in lengths)
        and all(one < other for one, other in pairwise(lengths)),
        f"familiarity: lengths are not 1 to {_MAX_LENGTHS} rising whole numbers",
    )
    require(
        isinstance(limits, list) and len(limits) == len(lengths) and all(map(is_finite, limits)),
        f"familiarity: there are not {len(lengths)} limits",
    )
    require(is_finite(familiarity.share) and 0 < familiarity.share < 1, "familiarity: share is not between 0 and 1")
    require(
        isinstance(familiarity.texts, list)
        and len(familiarity.texts) == len(lengths)
        and all(is_whole(count) and 0 < count < MAX_STEPS for count in familiarity.texts),
        f"familiarity: texts are not {len(lengths)} whole numbers",
    )
    require(is_text(familiarity.data), "familiarity: what its texts were is not text")


def parse_head(name: str, units: int, raw: dict[str, Any]) -> Head:
    """A head on `units` units. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
    weights = {_unit(key): row for key, row in raw.pop("weights").items()}
    calibration = raw.pop("calibration", None)
    head = Head(weights=weights, calibration=None if calibration is None else Calibrated(**calibration), **raw)
    rows = 1 if len(head.labels) == 2 else len(head.labels)
    require(bool(NAME.fullmatch(name)), f"head name {name!r} is not allowed")
    require(
        isinstance(head.labels, list) and all(map(is_text, head.labels)),
        f"head {name}: labels are not a list of text",
    )
    require(len(set(head.labels)) == len(head.labels) >= 2, f"head {name}: at least two different labels are needed")
    require(all(0 <= unit < units for unit in weights), f"head {name}: a unit is outside 0 to {units - 1}")
    vectors = [head.bias, *weights.values()]
    require(
        all(isinstance(v, list) and len(v) == rows and all(map(is_finite, v)) for v in vectors),
        f"head {name}: weights are not {rows} numbers",
    )
    require(head.pooling in get_args(Pooling), f"head {name}: pooling {head.pooling!r} is unknown")
    require(head.c is None or is_finite(head.c), f"head {name}: c is {head.c!r}")
    require(
        all(map(is_text, head.metrics)) and all(map(is_finite, head.metrics.values())),
        f"head {name}: a metric is not a number",
    )
    if head.calibration is not None:
        method, count, data = head.calibration.method, head.calibration.rows, head.calibration.data
        require(method in get_args(Method), f"head {name}: calibration {method!r} is unknown")
        require(
            is_whole(count) and 0 < count < MAX_STEPS and is_text(data), f"head {name}: its calibration is not valid"
        )
    return head


def _unit(key: str) -> int:
    """Each unit has one spelling; `int` takes " 1", "+1" and "1_0" as well."""
    require(bool(_UNIT.fullmatch(key)), f"{key!r} is not a unit")
    return int(key)

"""Published models: `name/step-N/` with `model.safetensors` and `manifest.json`, and the file `LATEST` beside them.

A checkpoint is immutable. It appears whole or not at all, `LATEST` is swapped last, and nothing is read whose
SHA-256 does not match its manifest. The manifest is read with a bounded size, checked field by field; no link leads
a reader or a publisher out of the volume. What passes computes finite numbers whatever its weights: `_MAX_PARAMETER`.
Publishers of one volume take turns by its lock file; readers need no lock.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load, save
from torch import Tensor

from model.cells import CellName
from model.durable import exclusively, new_directory, replace_file, sweep
from model.language_model import Architecture, LanguageModel
from model.untrusted import NOT_SAFETENSORS, brief, parse_json, read_plain

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
LATEST = "LATEST"
SHIPPED = Path(__file__).parent / "pretrained"
MAX_UNITS = 16_384  # four times the published model: 1.4 G parameters, 5.6 GB in float32

_LOCK = ".lock"
_PATIENCE_S = 600.0  # with another publisher, who needs seconds to write a checkpoint
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_STEP = re.compile(r"step-[0-9]{1,15}")
_UNIT = re.compile(r"0|[1-9][0-9]{0,5}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(r"[\t\n -~\xa0-\ud7ff\ue000-\U0010ffff]*")  # no control characters, no half of a surrogate pair
# A head on all of MAX_UNITS for five labels takes 2 MB, mean and scale one; parsing may take 25 times as much.
_MAX_MANIFEST_BYTES = 8 * 2**20
_MAX_LABEL_CHARACTERS = 65_536  # of all heads together: a worker tells them with every heartbeat
_MAX_HEADER_BYTES = 65_536  # of the weights; that of thirteen tensors has some 1,300
_MAX_STEPS = 10**15  # and bytes seen
_MAX_NUMBER = 1e30  # of a manifest; float32, in which the engine clamps a unit, ends at 3e38
# With weight norm every column of a folded matrix is as long as its gain, and |h| <= 1. So with n units, embeddings of
# size e, parameters up to p and steepness s the largest sum, m·Wh, stays below s·e·n·p^4: 3e30 at these limits.
_MAX_PARAMETER = 1e5
_MAX_STEEPNESS = 100.0
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


# What tells whether a checkpoint's files have changed: device, inode, size and time of change of each; None: not there.
Fingerprint = tuple[tuple[int, ...] | None, ...]


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or not of this format; the message names the file and the fault."""


@dataclass(frozen=True)
class Calibration:
    """The sentiment unit and the straight line between its value and sentiment in [-1, 1].

    sentiment = clip(polarity * (value - center) / scale, -1, 1); a sentiment s asks for center + polarity * s * scale.
    """

    unit: int
    polarity: int  # +1: the unit rises with positive text; -1: it falls
    center: float
    scale: float

    def sentiment(self, value: float) -> float:
        return max(-1.0, min(1.0, self.polarity * (value - self.center) / self.scale))

    def value(self, sentiment: float) -> float:
        return self.center + self.polarity * sentiment * self.scale


@dataclass(frozen=True)
class Head:
    """A linear classifier on the features (raw final cell). Two labels: one row of weights, for the second label."""

    labels: list[str]
    weights: dict[int, list[float]]  # unit -> its weight for every row; units with no weight are left out
    bias: list[float]
    c: float | None = None  # inverse L1 strength it was fitted with
    metrics: dict[str, float] = field(default_factory=dict)


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
    notes: str = ""


@dataclass(frozen=True)
class Checkpoint:
    manifest: Manifest
    model: LanguageModel


def check_place(volume: Path, name: str, step: int, rollback: bool = False) -> None:
    """Raise CheckpointError where `publish` would refuse the name or the step; to be asked before long preparations."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"name {name!r}: use 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit")
    if not (_whole(step) and 0 <= step < _MAX_STEPS):
        raise CheckpointError(f"step is {step!r}, not a whole number from 0 to {_MAX_STEPS - 1}")
    try:
        now = read_manifest(latest(volume))
    except CheckpointError:
        return  # there is no LATEST that could be read, so nothing better is lost
    if now.name == name and now.step > step and not rollback:
        raise CheckpointError(
            f"{volume} serves step {now.step} of {name}, later than step {step}: publish a later step, give this one "
            "another --name, or go back on purpose with --rollback"
        )


def publish(
    volume: Path, model: LanguageModel, manifest: Manifest, dtype: torch.dtype = torch.bfloat16, rollback: bool = False
) -> Path:
    """Write `volume/name/step-N` and make it `LATEST`. The manifest's sha256 is filled in here.

    A step that is there already with the same content is only made `LATEST`: whoever wrote it may have died before
    that. Raises CheckpointError for a name outside [a-z0-9._-], a step that is there already with other content, one
    before the `LATEST` of its name, unless `rollback`, and a full disk, which leaves the volume as it was.
    """
    check_place(volume, manifest.name, manifest.step, rollback)
    weights = save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()})
    manifest = replace(manifest, sha256={WEIGHTS: hashlib.sha256(weights).hexdigest()})
    final = volume / manifest.name / f"step-{manifest.step}"
    try:
        volume.mkdir(parents=True, exist_ok=True)
        with _alone_in(volume):
            check_place(volume, manifest.name, manifest.step, rollback)  # LATEST may have moved while we waited
            _check_inside(volume, final)
            sweep(volume)
            sweep(final.parent)
            if final.exists():
                _check_same(final, manifest)
            else:
                _write(final, weights, manifest)
            _swap_latest(final)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(volume).free
        raise CheckpointError(
            f"{final} is not published, for {volume} is full: the weights have {len(weights):,} bytes, {free:,} are "
            f"free ({error.strerror})"
        ) from error
    return final


def make_latest(directory: Path) -> None:
    """Verify a checkpoint that lies in a volume and swap the volume's `LATEST` to it, whatever it was.

    Raises CheckpointError if it is damaged, or not at `NAME/step-N` in the volume.
    """
    volume, name, step = directory.parent.parent, directory.parent.name, directory.name
    if not _NAME.fullmatch(name) or not _STEP.fullmatch(step):
        raise CheckpointError(f"{directory} is not at NAME/step-N in a volume")
    _check_inside(volume, directory)
    read(directory)
    with _alone_in(volume):
        _swap_latest(directory)


def published(volume: Path) -> list[Path]:
    """The directories `NAME/step-N` in a volume, by name and then by step; they are not read."""
    there = [
        path for path in volume.glob("*/step-*") if _NAME.fullmatch(path.parent.name) and _STEP.fullmatch(path.name)
    ]
    return sorted(there, key=lambda path: (path.parent.name, int(path.name.removeprefix("step-"))))


@contextmanager
def _alone_in(volume: Path) -> Iterator[None]:
    try:
        with exclusively(volume / _LOCK, _PATIENCE_S):
            yield
    except TimeoutError as error:
        raise CheckpointError(f"{volume} is being published to: {error}") from error


def _swap_latest(directory: Path) -> None:
    replace_file(directory.parent.parent / LATEST, f"{directory.parent.name}/{directory.name}\n")


def _write(final: Path, weights: bytes, manifest: Manifest) -> None:
    with new_directory(final) as temporary:
        (temporary / WEIGHTS).write_bytes(weights)
        record = asdict(manifest) | {"format_version": FORMAT_VERSION}
        try:
            (temporary / MANIFEST).write_text(json.dumps(record, indent=1, allow_nan=False))
        except ValueError as error:
            raise CheckpointError(f"the manifest of {final} holds a number that is not finite") from error
        read(temporary)  # LATEST must never name what cannot be read


def _check_same(final: Path, manifest: Manifest) -> None:
    there = read(final).manifest
    differing = [name for name, value in vars(manifest).items() if value != getattr(there, name)]
    if differing:
        raise CheckpointError(
            f"{final} exists already with another {', '.join(differing)}: a checkpoint is never changed, publish a "
            "later step or give this one another --name"
        )


def latest(volume: Path) -> Path:
    """The directory that `LATEST` names. Raises CheckpointError if there is none or it lies outside `volume`."""
    try:
        pointer = read_plain(volume / LATEST, 256).decode("utf-8", errors="replace").strip()
    except OSError as error:
        raise CheckpointError(
            f"{volume} holds no published model: {LATEST} cannot be read ({error.strerror})"
        ) from error
    name, _, step = pointer.partition("/")
    if not _NAME.fullmatch(name) or not _STEP.fullmatch(step):
        raise CheckpointError(f"{volume / LATEST} says {pointer!r}, which is not NAME/step-N")
    _check_inside(volume, volume / name / step)
    return volume / name / step


def _check_inside(volume: Path, directory: Path) -> None:
    try:
        place = directory.resolve()
        inside = place.is_relative_to(volume.resolve())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise CheckpointError(f"{directory} cannot be read: {error}") from error
    if not inside:
        raise CheckpointError(f"{directory} is a link to {place}, outside {volume}: put the checkpoint itself there")


def fingerprint(directory: Path) -> Fingerprint:
    """Of the files of a checkpoint, without reading them. A file written in place or replaced has another one."""
    return tuple(_fingerprint(directory / name) for name in (MANIFEST, WEIGHTS))


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def resolve(path: Path) -> Path:
    """`path` if it is a checkpoint itself, else what its `LATEST` names. Raises CheckpointError."""
    try:
        return path if (path / MANIFEST).exists() else latest(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def read_manifest(directory: Path) -> Manifest:
    """Parse and check a manifest. Raises CheckpointError."""
    path = directory / MANIFEST
    try:
        raw = parse_json(read_plain(path, _MAX_MANIFEST_BYTES))
        if not isinstance(raw, dict):
            raise ValueError("not a JSON object")
        version = raw.pop("format_version", None)
        if not _whole(version) or version != FORMAT_VERSION:
            raise ValueError(f"format version {version!r}, this program reads {FORMAT_VERSION}")
        return _manifest(raw)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a valid manifest: {brief(error)}") from error


def read(directory: Path) -> Checkpoint:
    """Load a checkpoint, parameters in float32. Raises CheckpointError if anything does not match its manifest."""
    manifest = read_manifest(directory)
    path = directory / WEIGHTS
    with torch.device("meta"):
        model = LanguageModel(manifest.architecture)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        content = read_plain(path, 4 * parameters + _MAX_HEADER_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256[WEIGHTS]:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {digest}, the manifest says {manifest.sha256[WEIGHTS]}"
        )
    try:
        tensors = load(content)
    except NOT_SAFETENSORS as error:
        raise CheckpointError(f"{path} is not a safetensors file: {brief(error)}") from error
    _fill(model, path, tensors)
    return Checkpoint(manifest, model)


def _fill(model: LanguageModel, path: Path, tensors: dict[str, Tensor]) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        name = wrong[0]
        raise CheckpointError(
            f"{path}: tensor {name[:100]!r} has shape {found.get(name)}, {model.architecture} needs "
            f"{expected.get(name)}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, not one of {_DTYPES}")
        least, most = (float(value) for value in torch.aminmax(tensor))
        if not -_MAX_PARAMETER <= least <= most <= _MAX_PARAMETER:  # nor is NaN
            raise CheckpointError(
                f"{path}: tensor {name!r} holds values that are not finite or beyond {_MAX_PARAMETER:g}: "
                f"{least:g} to {most:g}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)


def _manifest(raw: dict[str, Any]) -> Manifest:
    architecture = Architecture(**raw.pop("architecture"))
    _require(architecture.cell in get_args(CellName), f"cell {architecture.cell!r} is unknown")
    units = architecture.units
    for label, value in (("units", units), ("embedding_size", architecture.embedding_size)):
        _require(_whole(value) and 1 <= value <= MAX_UNITS, f"{label} is {value!r}, not 1 to {MAX_UNITS}")
    steepness = architecture.steepness
    _require(
        _finite(steepness) and 0 < steepness <= _MAX_STEEPNESS,
        f"steepness is {steepness!r}, not a number above 0 and at most {_MAX_STEEPNESS:g}",
    )
    calibration = raw.pop("sentiment", None)
    heads = {name: _head(name, units, head) for name, head in raw.pop("heads", {}).items()}
    characters = sum(len(label) for head in heads.values() for label in head.labels)
    _require(
        characters <= _MAX_LABEL_CHARACTERS, f"labels have {characters} characters, at most {_MAX_LABEL_CHARACTERS}"
    )
    manifest = Manifest(
        architecture=architecture,
        sentiment=None if calibration is None else Calibration(**calibration),
        heads=heads,
        **raw,
    )
    _require(bool(_NAME.fullmatch(manifest.name)), f"name {manifest.name!r} is not allowed")
    for label, count in (("step", manifest.step), ("bytes_seen", manifest.bytes_seen)):
        _require(_whole(count) and 0 <= count < _MAX_STEPS, f"{label} is {count!r}")
    _require(manifest.bits_per_byte is None or _finite(manifest.bits_per_byte), "bits_per_byte is not a number")
    _require(
        manifest.sha256.keys() == {WEIGHTS} and bool(_SHA256.fullmatch(manifest.sha256[WEIGHTS])),
        f"sha256 is not that of {WEIGHTS}",
    )
    _require(_text(manifest.notes), "notes are not text")
    if manifest.sentiment is not None:
        unit, scale, polarity = manifest.sentiment.unit, manifest.sentiment.scale, manifest.sentiment.polarity
        _require(_whole(unit) and 0 <= unit < units, f"sentiment unit is {unit!r}, the model has {units} units")
        _require(_whole(polarity) and polarity in (-1, 1), f"polarity is {polarity!r}, not -1 or 1")
        _require(
            _finite(scale) and scale > 0 and _finite(manifest.sentiment.center),
            "calibration is not finite and positive",
        )
    for label, vector in (("feature_mean", manifest.feature_mean), ("feature_scale", manifest.feature_scale)):
        _require(
            vector is None or (isinstance(vector, list) and len(vector) == units and all(map(_finite, vector))),
            f"{label} is not {units} numbers",
        )
    return manifest


def _head(name: str, units: int, raw: dict[str, Any]) -> Head:
    weights = {_unit(key): row for key, row in raw.pop("weights").items()}
    head = Head(weights=weights, **raw)
    rows = 1 if len(head.labels) == 2 else len(head.labels)
    _require(bool(_NAME.fullmatch(name)), f"head name {name!r} is not allowed")
    _require(
        isinstance(head.labels, list) and all(map(_text, head.labels)),
        f"head {name}: labels are not a list of text",
    )
    _require(len(set(head.labels)) == len(head.labels) >= 2, f"head {name}: at least two different labels are needed")
    _require(all(0 <= unit < units for unit in weights), f"head {name}: a unit is outside 0 to {units - 1}")
    vectors = [head.bias, *weights.values()]
    _require(
        all(isinstance(v, list) and len(v) == rows and all(map(_finite, v)) for v in vectors),
        f"head {name}: weights are not {rows} numbers",
    )
    _require(head.c is None or _finite(head.c), f"head {name}: c is {head.c!r}")
    _require(
        all(map(_text, head.metrics)) and all(map(_finite, head.metrics.values())),
        f"head {name}: a metric is not a number",
    )
    return head


def _unit(key: str) -> int:
    """One spelling for each: `int` takes " 1", "+1" and "1_0" as well."""
    _require(bool(_UNIT.fullmatch(key)), f"{key!r} is no unit")
    return int(key)


def _text(value: object) -> bool:
    """Also False for what a terminal would obey and for what UTF-8 cannot say."""
    return isinstance(value, str) and bool(_TEXT.fullmatch(value))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    """Also False for numbers so large that a sum of products of them is not finite."""
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

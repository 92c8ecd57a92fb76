"""The paper's own model in one command: `fetch_openai` downloads, verifies, imports, fits the head and publishes.

Every file must match its git blob hash, and the imported model the golden values. Files that were downloaded before a
failure stay in `out/.download` and are not requested again.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.checkpoints.openai_weights import import_openai
from model.heads import classifier as heads
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS, Head
from model.heads.histogram import histogram
from model.heads.standardization import mean_and_deviation
from model.heads.unit import Calibration
from model.network.language_model import LanguageModel
from texts.faults import Fault, Faults, TextsError
from texts.labelled import Columns, read_labelled
from texts.preparation import prepare
from trainer.publishing.download import FetchError, OnProgress, download, room, verify_local

OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """A published set of parameters and labelled sentences, and the values that it must reproduce."""

    name: str  # of the checkpoint
    step: int
    bytes_seen: int
    url: str  # the files' paths are relative to it
    files: dict[str, str]  # path -> git blob hash: SHA-1 of "blob SIZE\0" and the content
    download_bytes: int  # of all files, rounded up
    units: int
    sentiment_unit: int  # its value is the sentiment: polarity +1, center 0, scale 1
    golden: dict[str, float]  # text -> raw final cell of the sentiment unit
    notes: str

    weights: str = "model"  # folder of 0.npy to 14.npy
    train: str = "data/train_binary_sent.csv"
    valid: str = "data/dev_binary_sent.csv"
    test: str = "data/test_binary_sent.csv"


OPENAI = Release(
    name="openai",
    step=1_000_000,
    bytes_seen=1_000_000 * 128 * 256,  # updates x sequences x bytes
    url="https://raw.githubusercontent.com/openai/generating-reviews-discovering-sentiment"
    "/0032e4b87903713ad4242599f5dda2eb7b8c40fd",
    files={
        "model/0.npy": "64046c2bfcc46b04001ecc72c523fa06ea49da26",
        "model/1.npy": "48a9ce0d01b7f8394345f3587559ce8ce7e47841",
        "model/2.npy": "9a78f2c8f5447d0eb2c93d6f8f2632483441a072",
        "model/3.npy": "8dc8daffdd0317fe2062ce7730608f2d1ace7737",
        "model/4.npy": "90ff06565ee66227c075ea724d010a0dd87b76d9",
        "model/5.npy": "181109eb9fbea7529d9ccbbade234365f40914ee",
        "model/6.npy": "875fadb36c969edabffd35df7702c80de2fb895e",
        "model/7.npy": "5f946abd4eb767a0c04941eb90f8bee718ccceef",
        "model/8.npy": "3fd585ae5e53cae155ea8b760950db24ab13424b",
        "model/9.npy": "45d5ce521c7b10f3e6ccc702f902846e3e1d4216",
        "model/10.npy": "068c953b192b871251d2b67f4c3c4cf76700dbf1",
        "model/11.npy": "4266d2a2ffde97cc74cb54707f5b6fc74b924cea",
        "model/12.npy": "6116d17dec7f722b55248e632c25be47cf13b6a4",
        "model/13.npy": "21a442e141da569d96d1739aa9fe3277544255ef",
        "model/14.npy": "0f452d14e0ac21f47c4c68de3b4427dee9b5ce6a",
        "data/train_binary_sent.csv": "56d1a77499120f8f872ef0bd8032e59e51443468",
        "data/dev_binary_sent.csv": "0ff6282c423a8325e13b69653295995fb9e859b1",
        "data/test_binary_sent.csv": "58f2b7325d2151c99bc11baca6a34e7e3c7456ec",
    },
    download_bytes=348_000_000,
    units=4096,
    sentiment_unit=2388,
    golden={
        "it was a nice day": 0.012658,
        "it was a great day": 0.371533,
        "it was a bad day": -0.499269,
        "It was a wonderful day": 0.503395,
        "It was an excellent day": 0.44557,
        "It was a super excellent day": 0.623401,
        "It was such a bad bad day ": -0.858701,
        "It was such a bad bad bad day": -1.04497,
    },
    notes="The parameters published with Radford, Jozefowicz, Sutskever 2017 (arXiv 1704.01444), MIT licence. "
    "The paper reports 1.12 bits per byte and 91.8 % on binary SST.",
)

GOLDEN_TOLERANCE = 1e-3  # absolute; float32 products in another order differ by about 1e-5
CACHE = ".download"


def fetch_openai(
    out: Path,
    mirror: str | None = None,
    on_progress: OnProgress = lambda _what, _done, _total: None,
    on_message: OnMessage = lambda _text: None,
    *,
    release: Release = OPENAI,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    backoff_s: float = 1.0,
) -> Path:
    """Publish `release` in the checkpoint volume `out` and return the checkpoint's directory.

    mirror: an http(s) URL or a local folder that holds the files under the same paths; None asks the release's own
    URL. A folder is read where it is. dtype: of the published parameters; the head is fitted on what these give.
    device: that reads the sentences. backoff_s: before the second attempt at a file; doubles with every further one.
    If the checkpoint is there already, it is verified and made LATEST, and nothing is fetched.
    Raises FetchError, or CheckpointError for files that do not hold a model.
    """
    final = out / release.name / f"step-{release.step}"
    if final.exists():
        volumes.make_latest(final)
        on_message(f"{final} is there already and whole: made LATEST")
        return final
    base = release.url if mirror is None else mirror
    with room(out):
        out.mkdir(parents=True, exist_ok=True)
    scheme, is_url, _ = base.partition("://")
    if is_url:
        if scheme not in ("http", "https"):
            raise FetchError(f"mirror {base!r} has scheme {scheme!r}: use http, https or the path of a folder")
        source = out / CACHE
        _check_space(out, release, source, dtype)
        on_message(f"downloading {len(release.files)} files from {base}")
        for path, blob in release.files.items():
            download(f"{base.rstrip('/')}/{path}", source / path, blob, release.download_bytes, on_progress, backoff_s)
    else:
        source = Path(base)
        if not source.is_dir():
            raise FetchError(f"mirror {base!r} is neither an http(s) URL nor a folder")
        _check_space(out, release, None, dtype)
        for path, blob in release.files.items():
            verify_local(source / path, blob)
    on_message(f"{len(release.files)} files verified by their git blob hashes")

    model = import_openai(source / release.weights)
    if model.architecture.units != release.units:
        raise FetchError(f"the model has {model.architecture.units} units, the release {release.name} {release.units}")
    _check_golden(model, release)
    on_message(f"{len(release.golden)} golden values reproduced to {GOLDEN_TOLERANCE:g} in float32")

    if dtype is not torch.float32:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype))  # as the checkpoint will hold them
        off = max(abs(value - release.golden[text]) for text, value in _golden(model, release).items())
        on_message(f"rounded to {str(dtype).removeprefix('torch.')}: golden values are off by up to {off:.1g}")
    manifest = _describe(model, release, source, device, on_progress, on_message)
    with room(out):
        published = volumes.publish(out, model, manifest, dtype)
    shutil.rmtree(out / CACHE, ignore_errors=True)
    on_message(f"published {published}")
    return published


def read_sentences(path: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """Prepared texts and labels (texts,) of a CSV file with the columns `label` (0 or 1) and `sentence`."""
    try:
        labelled = read_labelled(path, Faults(_refuse), Columns("sentence"))
        return [prepare(text) for text in labelled.texts], np.array(labelled.binary())
    except TextsError as error:
        raise FetchError(str(error)) from error


def _refuse(fault: Fault) -> None:
    raise FetchError(str(fault))


def _check_golden(model: LanguageModel, release: Release) -> None:
    for text, value in _golden(model, release).items():
        expected = release.golden[text]
        if not abs(value - expected) <= GOLDEN_TOLERANCE:
            raise FetchError(
                f"golden value of {text!r}: unit {release.sentiment_unit} is {value:.6f}, expected {expected:.6f} to "
                f"{GOLDEN_TOLERANCE:g}. The files are the published ones, so this machine computes wrongly or this "
                "program has a fault: run its tests and report it. Nothing was published"
            )


def _golden(model: LanguageModel, release: Release) -> dict[str, float]:
    """The value of the unit in every golden text."""
    folded = FoldedModel(model, dtype=torch.float32)
    found = read_features(folded, [prepare(text) for text in release.golden])[:, release.sentiment_unit].tolist()
    return dict(zip(release.golden, found, strict=True))


def _describe(
    model: LanguageModel, release: Release, source: Path, device: str, on_progress: OnProgress, on_message: OnMessage
) -> Manifest:
    """Read the sentences, fit the default head as the paper did, and write what is known into a manifest."""
    folded = FoldedModel(model, device)
    sets = [read_sentences(source / path) for path in (release.train, release.valid, release.test)]
    total, done, features = sum(len(texts) for texts, _ in sets), 0, []

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        on_progress("reading sentences", done, total)

    for texts, _ in sets:
        features.append(read_features(folded, texts, on_progress=count))
    (train, valid, test), (train_y, valid_y, test_y) = features, [labels for _, labels in sets]
    on_message(f"fitting the head {SENTIMENT_HEAD!r} on {len(train)} sentences")
    # Raw features, as in the paper: only there does its C mean the same.
    head: Head = heads.fit_l1(train, train_y, valid, valid_y, SENTIMENT_LABELS, standardize=False)
    head = replace(head, metrics=head.metrics | {"test_accuracy": heads.accuracy(head, test, test_y)})
    on_message(
        f"test accuracy {head.metrics['test_accuracy']:.2%} on {len(test)} sentences with "
        f"{head.metrics['nonzero_units']:.0f} of {release.units} units, C = {head.c}"
    )
    mean, deviation = mean_and_deviation(train)
    return Manifest(
        name=release.name,
        step=release.step,
        architecture=model.architecture,
        bytes_seen=release.bytes_seen,
        bits_per_byte=None,
        sha256={},
        sentiment=Calibration(unit=release.sentiment_unit, polarity=1, center=0.0, scale=1.0),
        unit_histogram=histogram(valid[:, release.sentiment_unit], valid_y, f"{len(valid)} validation sentences"),
        heads={SENTIMENT_HEAD: head},
        feature_mean=mean.tolist(),
        feature_scale=deviation.tolist(),
        notes=release.notes,
    )


def _check_space(out: Path, release: Release, cache: Path | None, dtype: torch.dtype) -> None:
    """Refuse before the first byte what the disk cannot hold. cache: where downloads go, None if there are none."""
    needed = release.download_bytes * dtype.itemsize // 4  # the checkpoint; the files are float32
    if cache is not None:
        cached = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        needed += max(0, release.download_bytes - cached)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise FetchError(
            f"{out} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed: make room or name another --out"
        )

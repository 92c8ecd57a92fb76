"""`fetch_openai` against a real HTTP server on loopback that cuts, lies and refuses, with a small release."""

import csv
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.openai_weights import import_openai
from model.heads import classifier as heads
from model.heads.unit import Calibration
from model.network.cells import step
from texts.preparation import prepare
from trainer.publishing.download import FetchError, blob_hash
from trainer.publishing.openai import OPENAI, Release, fetch_openai, read_sentences

UNITS, EMBEDDING_SIZE, UNIT = 24, 8, 17
BIG = "model/13.npy"  # (24, 256): 24,704 bytes


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content, usedforsecurity=False).hexdigest()


def write_release(folder: Path) -> Release:
    draw = np.random.default_rng(0)
    n, e = UNITS, EMBEDDING_SIZE
    matrices = [(256, e), (e, 4 * n), (n, n), (n, n), (n, n), (n, n), (e, n), (n, n)]
    (folder / "model").mkdir(parents=True)
    (folder / "data").mkdir()
    for number, shape in enumerate([*matrices, (4 * n,), (4 * n,), (4 * n,), (n,), (n,), (n, 256), (256,)]):
        np.save(folder / "model" / f"{number}.npy", draw.normal(0.2, 0.7, size=shape).astype(np.float32))
    for name, rows in (("train", 60), ("dev", 30), ("test", 30)):
        with (folder / "data" / f"{name}_binary_sent.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["label", "sentence"])
            for row in range(rows):
                word = ['dreadful, "stale"', "a joy, næsten"][row % 2]
                writer.writerow([row % 2, f"Film {draw.integers(10**6)} was {word}"])
    files = {str(path.relative_to(folder)): git_blob(path.read_bytes()) for path in sorted(folder.rglob("*.*"))}
    size = sum((folder / path).stat().st_size for path in files)
    return Release(
        name="small",
        step=7,
        bytes_seen=123,
        url="http://unused.invalid",
        files=files,
        download_bytes=size,
        units=n,
        sentiment_unit=UNIT,
        golden={text: plain_value(folder / "model", text) for text in ("it was a nice day", "It was bad ")},
        notes="of a test",
    )


@torch.no_grad()
def plain_value(folder: Path, text: str) -> float:
    """The unit after `text`, by the plain step in place of the folded model."""
    model = import_openai(folder)
    weights, state = model.cell.weights(model.embedding), model.zero_state(1)
    for byte in prepare(text):
        state = step("mlstm", weights, torch.tensor([byte]), state)
    return float(state.cell[0, UNIT])


@dataclass
class Server:
    """What it serves, what it does wrong, and what it was asked: (path, Range header)."""

    folder: Path
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: int = 0  # how many more answers for BIG end after half of what they announced
    ignores_range: bool = False
    shifts_range: bool = False  # 206, but of another range
    statuses: dict[str, list[int]] = field(default_factory=dict)  # path -> statuses answered before the file
    redirect: str | None = None  # answer for BIG
    length: str | None = None  # what it says of BIG
    swapped: dict[str, bytes] = field(default_factory=dict)  # path -> other content

    def ranges(self, path: str) -> list[str | None]:
        return [asked for name, asked in self.requests if name == path]


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return tmp_path / "origin"


@pytest.fixture
def release(origin: Path) -> Release:
    return write_release(origin)


@pytest.fixture
def server(origin: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    plan = Server(origin)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = self.path.lstrip("/"), self.headers.get("Range")
            plan.requests.append((path, asked))
            if plan.statuses.get(path):
                self.send_error(plan.statuses[path].pop(0))
                return
            if path == BIG and plan.redirect:
                self.send_response(302)
                self.send_header("Location", plan.redirect)
                self.end_headers()
                return
            if not (plan.folder / path).is_file():
                self.send_error(404)
                return
            content = plan.swapped.get(path) or (plan.folder / path).read_bytes()
            begin = 0
            if asked and not plan.ignores_range:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(content):
                    self.send_error(416)
                    return
                begin = 0 if plan.shifts_range else begin
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            body = content[begin:]
            self.send_header("Content-Length", (path == BIG and plan.length) or str(len(body)))
            self.end_headers()
            if path == BIG and plan.cuts > 0:
                plan.cuts -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        plan.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield plan
        httpd.shutdown()
        thread.join()


def fetch(out: Path, release: Release, mirror: str, **more: object) -> Path:
    return fetch_openai(out, mirror, release=release, backoff_s=0.0, **more)  # type: ignore[arg-type]


def cache(out: Path) -> dict[str, int]:
    root = out / ".download"
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def test_from_url_to_a_loadable_checkpoint(tmp_path: Path, release: Release, server: Server) -> None:
    out = tmp_path / "volume"
    messages: list[str] = []
    progress: list[tuple[str, int, int | None]] = []
    path = fetch_openai(
        out,
        on_progress=lambda *report: progress.append(report),
        on_message=messages.append,
        release=replace(release, url=server.url + "/"),
        backoff_s=0.0,
    )

    assert path == out / "small" / "step-7" == volumes.latest(out)
    found = checkpoint.read(path)
    manifest = found.manifest
    assert (manifest.name, manifest.step, manifest.bytes_seen, manifest.notes) == ("small", 7, 123, "of a test")
    assert manifest.sentiment == Calibration(unit=UNIT, polarity=1, center=0.0, scale=1.0)
    head = manifest.heads["sentiment"]
    assert head.labels == ["negative", "positive"]
    assert head.c in heads.C_GRID
    assert manifest.unit_histogram is not None
    valid_texts, _ = read_sentences(server.folder / release.valid)
    assert manifest.unit_histogram.data == f"{len(valid_texts)} validation sentences"
    assert sum(map(sum, manifest.unit_histogram.counts.values())) == len(valid_texts)

    # What the manifest says is true of the checkpoint as it is loaded.
    folded = FoldedModel(found.model)
    train_texts, _ = read_sentences(server.folder / release.train)
    test_texts, test_labels = read_sentences(server.folder / release.test)
    train = read_features(folded, train_texts)
    assert manifest.feature_mean == pytest.approx(train.mean(axis=0).tolist(), abs=1e-5)
    assert manifest.feature_scale == pytest.approx(train.std(axis=0).tolist(), abs=1e-5)
    accuracy = heads.accuracy(head, read_features(folded, test_texts), test_labels)
    assert accuracy == head.metrics["test_accuracy"] > 0.9
    assert any(f"test accuracy {accuracy:.2%}" in message for message in messages)

    assert [asked for _, asked in server.requests] == [None] * len(release.files)
    assert progress[-1] == ("reading sentences", 120, 120)
    size = (server.folder / BIG).stat().st_size
    assert ("13.npy", size, size) in progress
    assert not (out / ".download").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_a_folder_which_is_left_alone(tmp_path: Path, origin: Path, release: Release, dtype: torch.dtype) -> None:
    out = tmp_path / "volume"
    before = {path: path.read_bytes() for path in origin.rglob("*.*")}
    found = checkpoint.read(fetch(out, release, str(origin), dtype=dtype))
    assert {path: path.read_bytes() for path in origin.rglob("*.*")} == before
    assert not (out / ".download").exists()
    original = import_openai(origin / "model")
    for parameter, expected in zip(found.model.parameters(), original.parameters(), strict=True):
        assert torch.equal(parameter, expected.to(dtype).float())


def test_a_second_call_verifies_and_fetches_nothing(tmp_path: Path, release: Release, server: Server) -> None:
    out = tmp_path / "volume"
    path = fetch(out, release, server.url)
    server.requests.clear()
    (out / "LATEST").unlink()
    assert fetch(out, release, server.url) == path == volumes.latest(out)
    assert server.requests == []
    (path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged"):
        fetch(out, release, server.url)


def test_a_cut_connection_is_resumed(tmp_path: Path, release: Release, server: Server) -> None:
    server.cuts = 2
    size = (server.folder / BIG).stat().st_size
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    first = size // 2
    second = first + (size - first) // 2
    assert server.ranges(BIG) == [None, f"bytes={first}-", f"bytes={second}-"]


def test_a_later_call_goes_on_where_the_first_gave_up(tmp_path: Path, release: Release, server: Server) -> None:
    out = tmp_path / "volume"
    server.cuts = 5
    with pytest.raises(FetchError, match=r"13\.npy failed 5 times.*connection cut after \d+ of \d+ bytes.*again"):
        fetch(out, release, server.url)
    kept = cache(out)[BIG + ".partial"]
    assert kept > 0
    server.requests.clear()
    checkpoint.read(fetch(out, release, server.url))
    assert server.ranges(BIG) == [f"bytes={kept}-"]
    assert server.ranges("model/0.npy") == []  # was whole already


def test_a_server_that_ignores_range_sends_the_whole(tmp_path: Path, release: Release, server: Server) -> None:
    server.cuts, server.ignores_range = 1, True
    size, seen = (server.folder / BIG).stat().st_size, []
    path = fetch(tmp_path / "volume", release, server.url, on_progress=lambda *report: seen.append(report))
    checkpoint.read(path)
    assert [report[1:] for report in seen if report[0] == "13.npy"][-1] == (size, size)
    assert [asked is not None for asked in server.ranges(BIG)] == [False, True]


def test_a_server_that_answers_another_range_is_asked_afresh(tmp_path: Path, release: Release, server: Server) -> None:
    server.cuts, server.shifts_range = 1, True
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    assert [asked is not None for asked in server.ranges(BIG)] == [False, True, False]


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_416_for_a_partial_file_that_is_whole_or_too_long(
    tmp_path: Path, release: Release, server: Server, extra: bytes
) -> None:
    partial = tmp_path / "volume" / ".download" / (BIG + ".partial")
    partial.parent.mkdir(parents=True)
    content = (server.folder / BIG).read_bytes() + extra
    partial.write_bytes(content)
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    assert server.ranges(BIG) == [f"bytes={len(content)}-"] + [None] * bool(extra)


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path, release: Release, server: Server) -> None:
    cached = tmp_path / "volume" / ".download" / BIG
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"rot")
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    assert server.ranges(BIG) == [None]


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_what_is_no_plain_file_in_the_cache_is_neither_read_nor_written(
    tmp_path: Path, release: Release, server: Server, suffix: str, kind: str
) -> None:
    there, outside = tmp_path / "volume" / ".download" / (BIG + suffix), tmp_path / "outside"
    there.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(there)
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to(outside)
        if kind == "link":
            outside.write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"13\.npy.* is not a plain file.*: delete it"):
        fetch(tmp_path / "volume", release, server.url)
    assert not outside.exists() or outside.read_bytes() == b"mine"


def test_a_link_in_a_folder_is_refused(tmp_path: Path, origin: Path, release: Release) -> None:
    (origin / BIG).rename(tmp_path / "elsewhere")
    (origin / BIG).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FetchError, match=r"13\.npy cannot be read: it is a link"):
        fetch(tmp_path / "volume", release, str(origin))


@pytest.mark.parametrize("length", ["\xb2", "9" * 5000, "-1", "1e9", "ten"])
def test_lengths_that_are_none_are_not_believed(tmp_path: Path, release: Release, server: Server, length: str) -> None:
    server.length = length
    try:
        checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    except FetchError as error:
        assert "13.npy failed 5 times" in str(error)  # noqa: PT017 - http.client itself believes some


@pytest.mark.parametrize("target", ["http://127.0.0.1:port/", "//" + "x" * 70 + ".invalid/", "http:///"])
def test_a_redirect_to_what_is_no_url(tmp_path: Path, release: Release, server: Server, target: str) -> None:
    server.redirect = target
    with pytest.raises(FetchError, match=r"13\.npy"):
        fetch(tmp_path / "volume", release, server.url)


def test_busy_servers_are_asked_again(tmp_path: Path, release: Release, server: Server) -> None:
    server.statuses = {BIG: [503, 429, 500]}
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))
    assert len(server.ranges(BIG)) == 4
    server.statuses = {BIG: [503] * 9}
    with pytest.raises(FetchError, match=r"13\.npy failed 5 times.*503"):
        fetch(tmp_path / "other", release, server.url)


def test_wrong_hash(tmp_path: Path, release: Release, server: Server) -> None:
    out = tmp_path / "volume"
    server.swapped = {BIG: b"some page of a captive portal"}
    wrong, right = git_blob(server.swapped[BIG]), release.files[BIG]
    with pytest.raises(FetchError, match=rf"model/13\.npy has git blob hash {wrong}, expected {right}.*deleted"):
        fetch(out, release, server.url)
    assert len(server.ranges(BIG)) == 1
    assert BIG not in cache(out)
    assert BIG + ".partial" not in cache(out)
    assert not (out / "LATEST").exists()
    server.swapped = {}
    checkpoint.read(fetch(out, release, server.url))


def test_wrong_hash_in_a_folder_leaves_the_file(tmp_path: Path, origin: Path, release: Release) -> None:
    (origin / BIG).write_bytes(b"another")
    with pytest.raises(FetchError, match=rf"13\.npy has git blob hash {git_blob(b'another')}, expected"):
        fetch(tmp_path / "volume", release, str(origin))
    assert (origin / BIG).read_bytes() == b"another"


def test_missing_file(tmp_path: Path, release: Release, server: Server) -> None:
    (server.folder / BIG).unlink()
    with pytest.raises(FetchError, match=rf"{server.url}/{BIG} was answered with 404 .*--mirror"):
        fetch(tmp_path / "volume", release, server.url)
    assert len(server.ranges(BIG)) == 1
    with pytest.raises(FetchError, match=r"13\.npy is missing"):
        fetch(tmp_path / "volume", release, str(server.folder))


def test_endless_answers_are_cut_off(tmp_path: Path, release: Release, server: Server) -> None:
    server.swapped = {BIG: bytes(release.download_bytes + 1)}
    with pytest.raises(FetchError, match=f"sends more than {release.download_bytes} bytes"):
        fetch(tmp_path / "volume", release, server.url)


def test_too_little_space_is_seen_before_the_first_byte(
    tmp_path: Path, release: Release, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * release.download_bytes  # the files, and a checkpoint
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr("trainer.publishing.openai.shutil.disk_usage", lambda _path: free)
    with pytest.raises(FetchError, match=r"MB free, .* MB are needed: make room"):
        fetch(tmp_path / "volume", release, server.url)
    assert server.requests == []
    free.free = needed
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))


def test_what_is_downloaded_needs_no_room_again(
    tmp_path: Path, release: Release, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.statuses = {"model/14.npy": [403]}
    with pytest.raises(FetchError, match="403"):
        fetch(tmp_path / "volume", release, server.url)
    have = sum(cache(tmp_path / "volume").values())
    assert have > 0
    free = 2 * release.download_bytes - have
    monkeypatch.setattr("trainer.publishing.openai.shutil.disk_usage", lambda _path: SimpleNamespace(free=free))
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, which is always full")
def test_a_disk_that_fills_up_on_the_way(
    tmp_path: Path, release: Release, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, plain = tmp_path / "volume" / ".download" / (BIG + ".partial"), Path.open

    def full(path: Path, *arguments: Any, **more: Any) -> Any:
        return plain(Path("/dev/full") if path == partial else path, *arguments, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FetchError, match=r"no space left while writing .*13\.npy\.partial: make room"):
        fetch(tmp_path / "volume", release, server.url)
    assert len(server.ranges(BIG)) == 1  # trying again would not help


def test_wrong_golden_values(tmp_path: Path, origin: Path, release: Release) -> None:
    text, value = next(iter(release.golden.items()))
    for wrong in (value + 0.0011, value - 0.0011, float("nan")):
        with pytest.raises(
            FetchError, match=f"golden value of '{text}': unit {UNIT} is {value:.6f}, expected {wrong:.6f}"
        ):
            fetch(tmp_path / "volume", replace(release, golden={**release.golden, text: wrong}), str(origin))
    assert not (tmp_path / "volume" / "LATEST").exists()
    fetch(tmp_path / "volume", replace(release, golden={**release.golden, text: value + 0.0009}), str(origin))


def test_other_units_than_promised(tmp_path: Path, origin: Path, release: Release) -> None:
    with pytest.raises(FetchError, match="the model has 24 units, the release small 25"):
        fetch(tmp_path / "volume", replace(release, units=25), str(origin))


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_other_schemes_are_refused(tmp_path: Path, origin: Path, release: Release, scheme: str) -> None:
    with pytest.raises(FetchError, match=f"scheme '{scheme}': use http, https or the path of a folder"):
        fetch(tmp_path / "volume", release, f"{scheme}://{origin}")


def test_a_redirect_is_followed_but_to_no_file(tmp_path: Path, release: Release, server: Server) -> None:
    server.redirect = (server.folder / BIG).as_uri()
    with pytest.raises(FetchError, match=r"13\.npy was answered with 302"):
        fetch(tmp_path / "volume", release, server.url)
    (server.folder / "moved.npy").write_bytes((server.folder / BIG).read_bytes())
    server.redirect = server.url + "/moved.npy"
    checkpoint.read(fetch(tmp_path / "volume", release, server.url))


def test_neither_url_nor_folder(tmp_path: Path, release: Release) -> None:
    with pytest.raises(FetchError, match="neither an http"):
        fetch(tmp_path / "volume", release, str(tmp_path / "nowhere"))


def test_damaged_sentences_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("label,sentence\n0,fine\n2,what\n")
    with pytest.raises(FetchError, match="labels 2 are neither 0"):
        read_sentences(path)


def test_blob_hash_is_that_of_git(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert blob_hash(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object of nothing


def test_the_table_of_the_published_release() -> None:
    assert set(OPENAI.files) == {f"model/{number}.npy" for number in range(15)} | {
        OPENAI.train,
        OPENAI.valid,
        OPENAI.test,
    }
    assert all(len(blob) == 40 and set(blob) <= set("0123456789abcdef") for blob in OPENAI.files.values())
    assert len(set(OPENAI.files.values())) == 18
    n, e = OPENAI.units, 64
    parameters = 256 * e + e * 5 * n + 5 * n * n + 4 * n * 3 + 2 * n + n * 256 + 256
    assert 4 * parameters < OPENAI.download_bytes < 4 * parameters * 1.02

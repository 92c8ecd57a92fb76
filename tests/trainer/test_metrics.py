"""A run tells how it goes: over HTTP, in TensorBoard's files, in its log; and publishes in a process of its own."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.checkpoints import checkpoint, volumes
from tests.conftest import free_port, wait_until
from tests.support.runs import STEP_BYTES, ignore, logged, options, start, write_corpus
from trainer.publishing.publish import publish_run
from trainer.run.peak import measured_peak_flops
from trainer.run.train import Run

# What dashboards and alerts ask for.
NAMES = {
    *("bits_per_byte", "bytes_per_second", "mfu_ratio", "gradient_norm", "learning_rate", "step", "seen_bytes"),
    *("skipped_steps", "data_wait_seconds_total", "snapshot_failures_total", "publishes_total"),
    *("snapshot_pause_seconds_count", "snapshot_pause_seconds_sum"),
    *("snapshot_write_seconds_count", "snapshot_write_seconds_sum"),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "built")


def ask(port: int) -> dict[str, float]:
    """The samples, without their common prefix."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.TransportError:
        return {}
    found = re.findall(r"^neuron_training_(\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def events(directory: Path) -> dict[str, dict[int, float]]:
    reader = EventAccumulator(str(directory / "tensorboard"))
    reader.Reload()
    return {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}


@pytest.mark.slow
def test_a_run_is_watched_from_outside(corpus: Path, tmp_path: Path) -> None:
    port, directory = free_port(), tmp_path / "run"
    chosen = options(
        corpus,
        total_bytes=10**12,
        validate_every_bytes=20 * STEP_BYTES,
        snapshot_every_s=0.1,
        publish_to=str(tmp_path / "volume"),
        publish_every_steps=40,
    )
    process = start(directory, chosen, "--metrics-port", str(port), "--peak-flops", "1e9")
    output = tmp_path / "output.txt"
    try:
        wait_until(
            lambda: process.poll() is not None or ask(port).get('publishes_total{outcome="ok"}', 0) >= 1,
            timeout_s=240,  # it takes a process of its own, which shares the cores with all other tests
            what="a snapshot being published",
        )
        assert process.poll() is None, output.read_text()
        found = ask(port)
        assert ask(port)["step"] > found["step"] - 1 > 40, "it continues training"
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    names = {name.partition("{")[0] for name in found}
    assert {name for name in names if not name.endswith("_created")} == NAMES
    assert found["seen_bytes"] == found["step"] * STEP_BYTES
    assert 0 < found['bits_per_byte{split="train"}'] < 9
    assert 0 < found['bits_per_byte{split="validation"}'] < 9
    assert found["bytes_per_second"] > 0
    parameters = sum(parameter.numel() for parameter in Run.resume(directory, ignore).model.parameters())
    assert found["mfu_ratio"] == pytest.approx(found["bytes_per_second"] * 6 * parameters / 1e9, rel=0.01, abs=1e-4)
    assert found["snapshot_write_seconds_count"] >= 1
    assert found["snapshot_failures_total"] == found["skipped_steps"] == 0
    published = checkpoint.read(volumes.latest(tmp_path / "volume")).manifest
    assert published.step % 40 == 0

    records = [record for record in logged(directory) if "warning" not in record]
    tags = events(directory)
    for tag, field in (
        ("bits_per_byte/train", "bits_per_byte"),
        ("bits_per_byte/validation", "validation_bits_per_byte"),
        ("gradient_norm", "gradient_norm"),
        ("learning_rate", "learning_rate"),
    ):
        expected = {record["step"]: record[field] for record in records if field in record}
        assert len(expected) > 2
        assert tags[tag] == pytest.approx(expected, rel=1e-5), tag


def test_what_is_done_twice_is_drawn_once(corpus: Path, tmp_path: Path) -> None:
    chosen = options(corpus, total_bytes=8 * STEP_BYTES, validate_every_bytes=STEP_BYTES, keep=9)
    Run.create(tmp_path / "run", chosen, ignore).train()
    for step in (6, 7, 8):  # as if killed after step 8 with its last snapshot at 5
        path = tmp_path / "run" / "snapshots" / f"step-{step}"
        path.rename(path.with_name(f"later-{step}"))
    Run.resume(tmp_path / "run", ignore).train()
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("gradient_norm")] == list(range(1, 9))


def test_the_end_of_a_run_is_published(corpus: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    chosen = options(corpus, total_bytes=7 * STEP_BYTES, publish_to=str(volume))
    trained = Run.create(tmp_path / "run", chosen, ignore)
    trained.train(publish=publish_run)
    assert trained.progress.step == 7
    published = checkpoint.read(volumes.latest(volume))
    assert published.manifest.step == 7
    run = Run.resume(tmp_path / "run", ignore)
    for found, expected in zip(published.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(found, expected.bfloat16().float())


@pytest.mark.slow
def test_a_failure_to_publish_does_not_stop_the_training(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "reviews-mlstm-16").write_text("a file where the checkpoints should be")
    chosen = options(corpus, total_bytes=8 * STEP_BYTES, publish_to=str(tmp_path / "volume"), publish_every_steps=2)
    trained = Run.create(tmp_path / "run", chosen, ignore)
    trained.train(publish=publish_run)
    assert trained.progress.step == 8
    assert Run.resume(tmp_path / "run", ignore).progress.step == 8
    warnings = [record["warning"] for record in logged(tmp_path / "run") if "warning" in record]
    assert any(re.match(r"step-\d was not published: exit code 1", warning) for warning in warnings)
    assert any(re.match(r"step-\d was not published: step-\d is still being", warning) for warning in warnings)
    assert "step-8 was not published: exit code 1" in warnings[-1]


def publish_for_ever(_run: Path, volume: Path, *, snapshot: Path, evaluation: Path | None) -> Path:
    volume.mkdir()
    time.sleep(3600)
    return snapshot


def test_a_signal_ends_the_wait_for_what_is_published_last(corpus: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    run = Run.create(tmp_path / "run", options(corpus, total_bytes=STEP_BYTES, publish_to=str(volume)), ignore)

    def stop() -> None:
        wait_until(volume.exists, what="the publishing")
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    run.train(peak_flops=1e12, publish=publish_for_ever)
    stopping.join()
    assert "step-1 was not published: exit code -15" in logged(tmp_path / "run")[-1]["warning"]


def test_the_peak_is_that_of_this_machine() -> None:
    flops = measured_peak_flops(torch.device("cpu"), torch.float32, rows=64, units=64, outputs=256)
    assert 1e7 < flops < 1e15

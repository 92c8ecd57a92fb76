"""Disks that are full, under load: the volume's while a model is published, and the one that Redis writes to."""

import time
from pathlib import Path

import httpx
import pytest
import redis

from model.checkpoints import checkpoint
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.volumes import latest
from tests.conftest import publish_tiny, run_stack, wait_until
from tests.faults.conftest import Accounted
from tests.faults.load import CALM_S, Load, mixed
from tests.support.small_disk import full, small_disk


def test_a_model_that_has_no_room_is_not_published(tmp_path: Path, accounted: Accounted) -> None:
    with small_disk(tmp_path / "volume", megabytes=4) as volume:
        old = publish_tiny(volume, step=1)
        size = sum(path.stat().st_size for path in old.iterdir())
        settings = {"NEURON_CHECKPOINT_DIR": str(volume), "NEURON_WORKER_POLL_S": "0.1"}
        with run_stack(tmp_path / "stack", **settings) as stack:
            with Load([stack.url], mixed()) as load:
                time.sleep(CALM_S)
                moment = time.monotonic()
                for free in (0, size // 2, size - 1):
                    with full(volume, but=free), pytest.raises(CheckpointError) as refused:
                        publish_tiny(volume, step=2)
                    assert f"{volume / 'tiny' / 'step-2'} is not published, because {volume} is full" in str(
                        refused.value
                    )
                    assert latest(volume) == old
                    assert sorted(path.name for path in volume.rglob("*")) == sorted(
                        [".lock", "LATEST", "manifest.json", "model.safetensors", "step-1", "tiny"]
                    )
                time.sleep(CALM_S)
            accounted("disk full on publish", load, stack.environment["NEURON_REDIS_URL"], moment)
            assert stack.worker_metric("neuron_reloads_total", '{outcome="refused"}') == 0
            published = publish_tiny(volume, step=2)
            assert checkpoint.read(published).manifest.step == 2
            wait_until(lambda: stack.worker_metric("neuron_model_info", '{name="tiny",step="2"}') == 1, what="step 2")


def test_a_redis_that_cannot_write_refuses_and_comes_back(
    tiny_volume: Path, tmp_path: Path, accounted: Accounted
) -> None:
    with (
        small_disk(tmp_path / "stack" / "redis", megabytes=64) as disk,
        run_stack(tmp_path / "stack", NEURON_CHECKPOINT_DIR=str(tiny_volume)) as stack,
    ):
        url = stack.environment["NEURON_REDIS_URL"]
        with redis.Redis.from_url(url) as server:
            server.config_set("appendonly", "yes")
            wait_until(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0, what="the first append file")
            with Load([stack.url], mixed()) as load:
                time.sleep(CALM_S)
                moment = time.monotonic()
                with full(disk):
                    wait_until(lambda: server.info("persistence")["aof_last_write_status"] == "err", what="a full disk")
                    for _ in range(5):
                        answer = httpx.post(stack.url + "/classify", json={"text": "Good."}, timeout=10)
                        assert answer.status_code == 503, answer.text
                        time.sleep(1)
                time.sleep(CALM_S)
        accounted("Redis cannot write for 5 s, its disk is full", load, url, moment)
        assert all(process.poll() is None for process in stack.processes.values())

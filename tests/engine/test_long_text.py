"""A long text comes to the engine whole and is read to its end, in no more memory than a short one."""

import json
from pathlib import Path

import pytest
import redis
import torch

from contract import wire
from contract.jobs import JOB
from engine import plans, serving
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from model.network.language_model import Architecture, LanguageModel
from tests.conftest import run_stack, wait_until
from texts.preparation import prepare

SENTENCE = "All work and no play makes a dull film. "
WIDE = Architecture("mlstm", units=256, embedding_size=16)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_megabyte_comes_to_the_engine_whole(tiny_volume: Path, tmp_path: Path) -> None:
    text = SENTENCE * 26_215  # 1,048,600 bytes
    served = serving.load(volumes.latest(tiny_volume), "cpu", "float32", 1)
    with run_stack(tmp_path, worker=False) as stack, stack.client() as client:
        client.post("/classify", json={"text": text}, headers={"Prefer": "respond-async"}).raise_for_status()
        with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as queue:
            (message,) = queue.lrange(wire.QUEUES["bulk"], 0, -1)
            (((job_id,),), *_) = json.loads(json.loads(message)["body"])
            job = JOB.validate_json(queue.hget(wire.job(job_id), "body"))
    (row,) = plans.plan(job, served).requests
    assert row.text == prepare(text)


@pytest.mark.slow
def test_a_long_text_is_read_to_its_end_in_constant_memory(tmp_path: Path) -> None:
    model = LanguageModel(WIDE)
    model.reset(torch.Generator().manual_seed(0))
    head = Head(["no", "yes"], {0: [1.0]}, [0.0])
    manifest = Manifest("wide", 1, WIDE, bytes_seen=0, bits_per_byte=8.0, sha256={}, heads={"sentiment": head})
    volumes.publish(tmp_path / "volume", model, manifest, torch.float32)
    # Every byte costs a step's time whatever the width, but a state kept for every byte would be 2 KiB of this model.
    text = SENTENCE * 250  # 10,000 bytes
    settings = {
        "NEURON_CHECKPOINT_DIR": str(tmp_path / "volume"),
        "NEURON_WORKER_BLOCK_STEPS": "256",
        "NEURON_WORKER_MAX_ROWS": "1",
    }
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        client.post("/classify", json={"text": text[:1_000]}).raise_for_status()
        before = resident_bytes(stack.processes["worker"].pid)
        read = stack.worker_metric("neuron_bytes_total", '{kind="read"}')
        accepted = client.post("/classify", json={"text": text}, headers={"Prefer": "respond-async"})
        where = accepted.raise_for_status().headers["location"]
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, resident_bytes(stack.processes["worker"].pid))
            return bool(client.get(where).json()["state"] == "done")

        wait_until(done, what="the end of the text")
        assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') - read == len(text.strip()) + 3
        # Where a state was kept for every byte, it would be 20 MB.
        assert most - before < 2**20

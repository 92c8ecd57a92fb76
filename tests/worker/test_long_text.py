"""A text of a megabyte is read to its end, over HTTP, and costs the worker no more memory than a short one."""

from pathlib import Path

import pytest

from tests.conftest import run_stack, wait_until


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_megabyte_is_read_without_truncation_in_constant_memory(tiny_volume: Path, tmp_path: Path) -> None:
    text = "All work and no play makes a dull film. " * 26_215  # 1,048,600 bytes
    settings = {"NEURON_CHECKPOINT_DIR": str(tiny_volume), "NEURON_WORKER_BLOCK_STEPS": "256"}
    with run_stack(tmp_path, **settings) as stack, stack.client() as client:
        client.post("/classify", json={"text": text[:10_000]}).raise_for_status()
        before = resident_bytes(stack.processes["worker"].pid)
        read = stack.worker_metric("neuron_bytes_total", '{kind="read"}')
        accepted = client.post("/classify", json={"text": text}, headers={"Prefer": "respond-async"})
        where = accepted.raise_for_status().headers["location"]
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, resident_bytes(stack.processes["worker"].pid))
            return bool(client.get(where).json()["state"] == "done")

        wait_until(done, timeout_s=550, what="the end of the text")
        assert stack.worker_metric("neuron_bytes_total", '{kind="read"}') - read == len(text.strip()) + 3
        # The text itself, as sent, in JSON and as bytes, is a few MB; a state kept for every byte would be 400.
        assert most - before < 40 * 2**20

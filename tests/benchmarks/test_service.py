"""`neuron bench service` drives a real stack, and its shares follow from its rates."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.conftest import run_stack


def bench(path: Path, volume: Path, *arguments: str) -> Result:
    environment = {
        "NEURON_CHECKPOINT_DIR": str(volume),
        "NEURON_WORKER_THREADS": "1",
        "NEURON_WORKER_DTYPE": "float32",
    }
    # Short, so that requests end within their time on a busy machine, too.
    texts = path.with_name("short.txt")
    texts.write_text("".join(f"Film {number}.\n" for number in range(130)))
    command = ["bench", "service", "--seconds", "0.5", "--texts", str(texts), "--json", str(path), *arguments]
    return CliRunner().invoke(main, command, env=environment)


@pytest.mark.slow
def test_the_figures_hang_together(tmp_path: Path, tiny_volume: Path) -> None:
    path = tmp_path / "service.json"
    run = bench(path, tiny_volume, "--simulated-workers", "3")
    assert run.exit_code == 0, run.output
    found = json.loads(path.read_text())
    assert json.loads(run.stdout) == found
    for name in ("throughput_16_clients_64_texts", "throughput_256_clients_1_text"):
        load = found[name]
        assert load["share_of_engine"] == pytest.approx(load["texts_per_s"] / found["engine_texts_per_s"])
        assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p99"]
    beside = found["beside_bulk"]
    ratio = beside["interactive_latency_ms"]["p99"] / found["idle_latency_ms"]["p99"]
    assert beside["p99_vs_idle"] == pytest.approx(ratio)
    assert beside["bulk_texts_per_s"] > 0
    assert found["streams"]["characters_per_s"] > 0
    assert found["streams"]["first_character_ms"]["count"] >= found["streams"]["streams"] == 64
    two_workers = found["two_workers"]
    if len(os.sched_getaffinity(0)) < 2:
        assert two_workers == {"left_out": "there is one core"}
    else:
        one, two = two_workers["one"], two_workers["two"]
        assert two_workers["ratio"] == pytest.approx(two["texts_per_s"] / one["texts_per_s"])
        assert sum(name.startswith("worker on core") for name in one["cpu"]) == 1
        workers = [cores for name, cores in two["cpu"].items() if name.startswith("worker on core")]
        assert len(workers) == 2
        # One that was not kept on its core could use more than one.
        assert all(0 < cores < 1.1 for cores in workers)
    assert found["simulated"]["workers"] == 3
    assert found["simulated"]["256_clients_1_text"]["texts_per_s"] > 0
    embeddings = found["simulated"]["embeddings"]
    ratio = embeddings["embeddings_texts_per_s"] / embeddings["featurize_texts_per_s"]
    assert embeddings["ratio"] == pytest.approx(ratio)
    assert ratio > 0


def test_an_answer_that_is_an_error_ends_the_run_and_is_shown(tmp_path: Path, tiny_volume: Path) -> None:
    with run_stack(tmp_path, worker=False, NEURON_API_MAX_TEXT_BYTES="1") as stack:
        refused = bench(tmp_path / "service.json", tiny_volume, "--url", stack.url)
    assert refused.exit_code == 1
    assert "answered 413, not 200" in refused.stderr
    assert not (tmp_path / "service.json").exists()

"""What an engine reports, as the worker's metrics."""

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from engine.observer import PrefixLookup, RowEnd
from worker.engine_metrics import EngineMetrics


@pytest.fixture
def grown() -> Callable[..., float]:
    """By how much a sample has grown since the test began."""
    before = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
    }

    def since(name: str, **labels: str) -> float:
        value = REGISTRY.get_sample_value(name, labels)
        assert value is not None, name
        return value - before.get((name, tuple(labels.items())), 0.0)

    return since


def test_a_block_counts_the_rows_of_every_step_and_its_bytes(grown: Callable[..., float]) -> None:
    EngineMetrics().block(0.5, [5, 3, 3, 1], read=9, generated=3)
    assert grown("neuron_step_rows_count") == 5
    assert grown("neuron_step_rows_sum") == 4 + 3 + 3 + 1 + 1
    assert grown("neuron_step_rows_bucket", le="1.0") == 2
    assert grown("neuron_step_rows_bucket", le="4.0") == 5
    assert grown("neuron_block_seconds_sum") == pytest.approx(0.5)  # a difference of sums
    assert grown("neuron_step_seconds_sum") == pytest.approx(0.1)
    assert grown("neuron_bytes_total", kind="read") == 9
    assert grown("neuron_bytes_total", kind="generated") == 3


def test_rows_are_counted_where_they_are_and_as_they_end(grown: Callable[..., float]) -> None:
    ends: tuple[RowEnd, ...] = ("done", "failed", "cancelled", "late")
    engine_metrics = EngineMetrics()
    engine_metrics.rows(active=3, waiting=2)
    for how in ends:
        engine_metrics.row_ended(how)
    engine_metrics.out_of_memory()
    assert REGISTRY.get_sample_value("neuron_rows_active") == 3
    assert REGISTRY.get_sample_value("neuron_rows_waiting") == 2
    assert [grown("neuron_rows_ended_total", how=how) for how in ends] == [1, 1, 1, 1]
    assert grown("neuron_out_of_memory_total") == 1


def test_prefixes_are_counted(grown: Callable[..., float]) -> None:
    outcomes: tuple[PrefixLookup, ...] = ("hit", "shared", "miss")
    engine_metrics = EngineMetrics()
    for outcome in outcomes:
        engine_metrics.prefix_lookup(outcome)
    engine_metrics.prefix_spared(640)
    engine_metrics.prefixes_evicted(2)
    engine_metrics.prefixes_held(4096)
    assert [grown("neuron_prefix_cache_lookups_total", outcome=outcome) for outcome in outcomes] == [1, 1, 1]
    assert grown("neuron_prefix_cache_spared_bytes_total") == 640
    assert grown("neuron_prefix_cache_evictions_total") == 2
    assert REGISTRY.get_sample_value("neuron_prefix_cache_held_bytes") == 4096

"""`EngineMetrics`, `TextMetrics`: what an engine and a queue of texts report, as Prometheus metrics."""

from collections.abc import Sequence

from engine.observer import Observer, PrefixLookup, RowEnd
from engine.text_queue import TextObserver
from worker import metrics


class EngineMetrics(Observer):
    def __init__(self) -> None:
        # Looking up a series by its label costs more than counting, and blocks are many.
        self._read, self._generated = metrics.BYTES.labels("read"), metrics.BYTES.labels("generated")

    def rows(self, active: int, waiting: int) -> None:
        metrics.ROWS_ACTIVE.set(active)
        metrics.ROWS_WAITING.set(waiting)

    def block(self, seconds: float, steps: Sequence[int], read: int, generated: int) -> None:
        metrics.BLOCK_SECONDS.observe(seconds)
        metrics.STEP_SECONDS.observe(seconds / steps[0])
        active = len(steps)
        for step in range(steps[0]):
            while steps[active - 1] <= step:
                active -= 1
            metrics.STEP_ROWS.observe(active)
        self._read.inc(read)
        self._generated.inc(generated)

    def row_ended(self, how: RowEnd) -> None:
        metrics.ROWS_ENDED.labels(how).inc()

    def out_of_memory(self) -> None:
        metrics.OUT_OF_MEMORY.inc()

    def prefix_lookup(self, outcome: PrefixLookup) -> None:
        metrics.PREFIX_CACHE_LOOKUPS.labels(outcome).inc()

    def prefix_spared(self, bytes_: int) -> None:
        metrics.PREFIX_CACHE_SPARED.inc(bytes_)

    def prefixes_evicted(self, count: int) -> None:
        metrics.PREFIX_CACHE_EVICTIONS.inc(count)

    def prefixes_held(self, bytes_: int) -> None:
        metrics.PREFIX_CACHE_HELD.set(bytes_)


class TextMetrics(TextObserver):
    def batch(self, seconds: float, rows: int) -> None:
        metrics.RECURRENT_SECONDS.observe(seconds)
        metrics.RECURRENT_ROWS.observe(rows)

    def row_ended(self, how: RowEnd) -> None:
        metrics.RECURRENT_ENDED.labels(how).inc()

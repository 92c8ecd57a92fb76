"""What the first process does besides training: journal, snapshots, publishing. None of its failures ends a run."""

import time
from pathlib import Path
from threading import Event

from trainer.run.autopublish import AutoPublisher, Publish, PublishOutcome
from trainer.run.journal import Journal
from trainer.run.options import Options
from trainer.run.saving import Saver
from trainer.run.snapshot import Snapshot

_PUBLISH_PATIENCE_S = 1800.0  # after the end of a run
_STOP_PATIENCE_S = 5.0  # when asked to stop


class Bookkeeper:
    """The first process's records of a run."""

    def __init__(
        self, directory: Path, options: Options, journal: Journal, saver: Saver, publish: Publish | None
    ) -> None:
        """publish: how a snapshot is published; needed where the options name a volume."""
        self._journal = journal
        self._saver = saver
        self._save_every_s = options.snapshot_every_s
        self._saved_at = time.monotonic()
        self._publisher: AutoPublisher | None = None
        if options.publish_to is not None and publish is not None:
            labelled = None if options.publish_eval is None else Path(options.publish_eval)
            self._publisher = AutoPublisher(publish, directory, Path(options.publish_to), labelled, self._published)

    def note(self, losses: list[float], norm: float, rate: float, waited_s: float, validated: bool) -> None:
        """Note an update (`Journal.update`), and what has ended in the background."""
        self._journal.update(losses, norm, rate, waited_s, validated)
        self._collect(wait=False)
        if self._publisher is not None:
            self._publisher.poll()

    def snapshot_due(self, best: bool) -> bool:
        """best: whether the model is the best so far. That is worth a snapshot, but not a wait for the one before it:
        where validations follow each other quickly, nearly each finds a new best."""
        return time.monotonic() - self._saved_at >= self._save_every_s or (best and self._saver.idle)

    def save(self, snapshot: Snapshot, publish: bool) -> None:
        """Start to write `snapshot`. publish: publish it once it is written."""
        began = time.perf_counter()
        self.settle()
        self._saver.save(snapshot, self._publisher.start if publish and self._publisher is not None else None)
        self._journal.metrics.snapshot_pause.observe(time.perf_counter() - began)
        self._saved_at = time.monotonic()

    def settle(self) -> None:
        """Wait until no snapshot is being written."""
        self._collect(wait=True)
        publishing = self._publisher.snapshot if self._publisher is not None else None
        self._saver.protected = frozenset() if publishing is None else frozenset({publishing})

    def publish_last(self, snapshot: Path, stop: Event) -> None:
        """Publish the end of the run and wait for it, but no longer once `stop` is set."""
        if self._publisher is None:
            return
        self._publisher.wait(_PUBLISH_PATIENCE_S, stop)
        if self._publisher.last != snapshot and not stop.is_set():
            self._publisher.start(snapshot)
            self._publisher.wait(_PUBLISH_PATIENCE_S, stop)

    def close(self) -> None:
        self.settle()
        if self._publisher is not None:
            self._publisher.wait(_STOP_PATIENCE_S)
        self._journal.close()

    def _collect(self, wait: bool) -> None:
        try:
            written = self._saver.collect(wait)
        except OSError as error:
            self._journal.metrics.snapshot_failures.inc()
            self._journal.warn(f"a snapshot could not be written: {error}")
        else:
            if written is not None:
                self._journal.metrics.snapshot_write.observe(written.seconds)

    def _published(self, snapshot: Path, outcome: PublishOutcome, why: str) -> None:
        self._journal.metrics.publishes.labels(outcome).inc()
        if outcome != "ok":
            self._journal.warn(f"{snapshot.name} was not published: {why}")

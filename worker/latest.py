"""Looks at a volume's `LATEST`: which checkpoint to load now, and when to try one again that was refused."""

import math
import time
from pathlib import Path

from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError, Fingerprint


class Latest:
    """What a volume names as its newest checkpoint, beside the one that is served.

    A checkpoint is loaded when `LATEST` first names it. One that was refused is tried again when its files have
    changed, because a copy may have been under way, and have then stayed the same from one look to the next, because
    every attempt reads and hashes all of it. One whose fault may pass by itself is also tried again at intervals.
    """

    def __init__(self, volume: Path, retry_s: float) -> None:
        """retry_s: between two attempts at what may pass. Raises CheckpointError where there is no volume."""
        self._volume = volume
        self._retry_s = retry_s
        self.served = self._named()
        self._seen: tuple[Path, Fingerprint] | None = None  # by the last look
        self._tried: tuple[Path, Fingerprint] | None = None  # as it was before the last attempt
        self._retry_at = math.inf  # by time.monotonic
        self._fault: str | None = None

    def look(self) -> Path | None:
        """The checkpoint to load now, if any. The caller sets `served` after loading it, or calls `give_up`.

        Raises CheckpointError for an invalid `LATEST`, at the first of several looks that find the same fault.
        """
        try:
            directory = self._named()
        except CheckpointError as error:
            if str(error) == self._fault:
                return None
            self._fault = str(error)
            raise
        self._fault = None
        if directory == self.served:
            return None
        now = directory, checkpoint.fingerprint(directory)
        settled, self._seen = now == self._seen, now
        if now == self._tried:
            due = time.monotonic() >= self._retry_at
        else:
            due = settled or self._tried is None or self._tried[0] != directory
        if not due:
            return None
        self._tried, self._retry_at = now, time.monotonic() + self._retry_s
        return directory

    def _named(self) -> Path:
        """The checkpoint that `LATEST` names, or the shipped one while nothing has been published in the volume."""
        empty = self._volume.is_dir() and not (self._volume / volumes.LATEST).exists()
        return volumes.latest(volumes.SHIPPED if empty else self._volume)

    def give_up(self) -> None:
        """The last attempt failed for good: none will follow unless the files change."""
        self._retry_at = math.inf

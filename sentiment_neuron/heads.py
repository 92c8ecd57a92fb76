"""Heads that users fitted, for a model in this process: where they are, and one of them by its name."""

import threading
from pathlib import Path

from contract.jobs import ErrorCode
from contract.setting_error import SettingError
from engine.openmp import on_passing_thread
from engine.text_queue import RecurrentHead, TextQueue
from model.checkpoints import head_store, volumes
from model.checkpoints.head_store import Fingerprint, HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import StoredHead
from recurrent import published
from recurrent.published import Published
from sentiment_neuron.errors import LoadError, RequestFailedError
from worker.settings import WorkerSettings


def heads_directory(place: Path) -> Path:
    """Where a worker that serves `place`, a checkpoint or a volume, keeps heads. Raises LoadError."""
    try:
        if place == volumes.SHIPPED:
            return WorkerSettings().heads_dir
    except SettingError as error:
        raise LoadError(str(error)) from error
    volume = place if (place / volumes.LATEST).exists() else place.absolute().parent.parent
    return volume / "heads"


class FittedHeads:
    """The heads of a directory. The recurrent classifier that was last asked for is kept, and the queue it reads by."""

    def __init__(self, directory: Path, device: str) -> None:
        self._directory = directory
        self._device = device
        self._texts = TextQueue()
        self._kept: tuple[Fingerprint, Published] | None = None
        self._reading = threading.Lock()

    def find(self, name: str) -> StoredHead | RecurrentHead | None:
        """None where no head has that name. Raises RequestFailedError for one that cannot be read."""
        try:
            if not head_store.is_recurrent(self._directory, name):
                return head_store.read(self._directory, name)
            with self._reading:
                fingerprint = head_store.fingerprint(self._directory, name)
                if self._kept is None or self._kept[0] != fingerprint:
                    # As a worker does it: see engine/openmp.py.
                    found = on_passing_thread(published.read, self._directory, name, self._device)
                    self._kept = fingerprint, found
                return RecurrentHead(self._kept[1], self._texts)
        except NoSuchHeadError:
            return None
        except HeadStoreError as error:
            raise RequestFailedError(ErrorCode.UNKNOWN_HEAD, str(error)) from error

    def close(self) -> None:
        """What is still read fails."""
        self._texts.close()

"""Heads that users fitted, for a model in this process: where they are, and one of them by its name."""

from pathlib import Path

from contract.jobs import ErrorCode
from contract.setting_error import SettingError
from engine.classifiers import Classifiers
from engine.text_queue import RecurrentHead, TextQueue
from model.checkpoints import head_store, volumes
from model.checkpoints.head_store import HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import StoredHead
from sentiment_neuron.errors import LoadError, RequestFailedError
from worker.settings import WorkerSettings


def heads_directory(place: Path) -> Path:
    """Where a worker that serves `place`, a checkpoint or a volume, keeps heads. Raises LoadError."""
    try:
        settings = WorkerSettings()
    except SettingError as error:
        raise LoadError(str(error)) from error
    if settings.worker_heads_dir is not None or place == volumes.SHIPPED:
        return settings.heads_dir
    volume = place.absolute().parent.parent  # of NAME/step-N
    return (volume if (volume / volumes.LATEST).exists() else place) / "heads"


class FittedHeads:
    """The heads of a directory, with the queue that reads for its recurrent classifiers."""

    def __init__(self, directory: Path, device: str) -> None:
        self._directory = directory
        self._classifiers = Classifiers(directory, device)
        self._texts = TextQueue()

    def find(self, name: str) -> StoredHead | RecurrentHead | None:
        """None where no head has that name. Raises RequestFailedError for one that cannot be read."""
        try:
            if not head_store.is_recurrent(self._directory, name):
                return head_store.read(self._directory, name)
            return RecurrentHead(self._classifiers.get(name), self._texts)
        except NoSuchHeadError:
            return None
        except HeadStoreError as error:
            raise RequestFailedError(ErrorCode.UNKNOWN_HEAD, str(error)) from error

    def close(self) -> None:
        """What is still read fails."""
        self._texts.close()

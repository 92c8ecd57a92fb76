"""Heads that users fitted, for a model in this process: where they are, and one of them by its name."""

from pathlib import Path

from contract.jobs import ErrorCode
from contract.setting_error import SettingError
from model.checkpoints import head_store, volumes
from model.checkpoints.head_store import HeadStoreError, NoSuchHeadError, StoredHead
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


def find_head(directory: Path, name: str) -> StoredHead | None:
    """None where no head has that name. Raises RequestFailedError for one that cannot be read."""
    try:
        return head_store.read(directory, name)
    except NoSuchHeadError:
        return None
    except HeadStoreError as error:
        raise RequestFailedError(ErrorCode.UNKNOWN_HEAD, str(error)) from error

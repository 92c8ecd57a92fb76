"""What has lain in storage for its time goes: batches, files, and what was left behind."""

import contextlib
import logging
import time
from collections.abc import Iterator

from api import metrics
from api.batches.ledger import Ledger, made_at

log = logging.getLogger(__name__)


def sweep(ledger: Ledger, ttl_s: float) -> None:
    """Delete batches that ended so long ago, and files so old that no batch reads them. Raises OSError.

    What is damaged is counted and stays, and so does what is not ours, such as what a file system of a network leaves.
    """
    ledger.delete_unfinished()
    for owner in ledger.owners():
        for batch_id in ledger.batches(owner):
            with _counted():
                if time.time() - made_at(batch_id) > ttl_s:
                    batch = ledger.batch(owner, batch_id)
                    ended = made_at(batch_id) if batch is None else ledger.progress(batch).ended
                    if ended is not None and time.time() - ended > ttl_s:
                        ledger.delete_batch(owner, batch_id)
        for file_id in ledger.uploads(owner):
            with _counted():
                if time.time() - made_at(file_id) > ttl_s:
                    ledger.delete_unread(owner, file_id)


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """A failure with one entry does not keep the others from their turn."""
    try:
        yield
    except OSError as error:
        metrics.BATCH_ERRORS.inc()
        log.warning("the storage of batches: %s", error)

"""The heads that users fitted, as a worker knows them: by the files of a directory that all workers share.

A head is read when a job names one that the checkpoint lacks, and kept until its file changes. Gateways know heads only
by a hash in Redis. A worker that adds or deletes a head changes directory and hash under one lock. Every worker
compares both at every poll, so that heads of the command line appear, and a wiped Redis gets all heads again.
"""

import contextlib
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

from contract.jobs import HeadInfo
from engine.classifiers import Classifiers
from engine.text_queue import RecurrentHead, TextQueue
from model.checkpoints import head_store
from model.checkpoints.head_store import Fingerprint, HeadStoreError, NoSuchHeadError
from model.checkpoints.stored_head import StoredHead
from recurrent import published
from recurrent.published import Published
from worker import metrics
from worker.results import Results

log = logging.getLogger(__name__)

_KEPT = 32  # heads with their weights; of all others only the description


class KnownHeads:
    """`find` may be called by any thread."""

    def __init__(self, directory: Path, texts: TextQueue, device: str = "auto") -> None:
        """texts: what reads for recurrent classifiers; device: where they are."""
        self.directory = directory
        self._texts = texts
        self._classifiers = Classifiers(directory, device)
        self._kept: OrderedDict[str, tuple[Fingerprint, StoredHead]] = OrderedDict()
        self._described: dict[str, tuple[Fingerprint, str | None]] = {}  # None: it was refused
        self._changing = threading.Lock()
        self._fault = ""

    def find(self, name: str) -> StoredHead | RecurrentHead | None:
        """None where there is none; one that cannot be read is counted and logged."""
        found = self._find(name)
        return RecurrentHead(found, self._texts) if isinstance(found, Published) else found

    def _find(self, name: str) -> StoredHead | Published | None:
        try:
            fingerprint = head_store.fingerprint(self.directory, name)
            with self._changing:
                kept = self._kept.get(name)
                if kept is not None and kept[0] == fingerprint:
                    self._kept.move_to_end(name)
                    return kept[1]
            if head_store.is_recurrent(self.directory, name):
                return self._classifiers.get(name)
            stored = head_store.read(self.directory, name)
        except NoSuchHeadError:
            return None
        except HeadStoreError as error:
            _refused(error)
            return None
        with self._changing:
            self._kept[name] = fingerprint, stored
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return stored

    def add(self, stored: StoredHead, results: Results) -> None:
        """Raises HeadExistsError, HeadStoreError, OSError."""
        with head_store.alone_in(self.directory):
            head_store.create(self.directory, stored)
            results.put_head(stored.name, _info(stored))

    def remove(self, name: str, results: Results) -> None:
        """Raises NoSuchHeadError, HeadStoreError, OSError."""
        head_store.fingerprint(self.directory, name)  # without one there is nothing to lock
        with head_store.alone_in(self.directory):
            head_store.delete(self.directory, name)
            results.drop_head(name)

    def reconcile(self, results: Results) -> None:
        """List the heads of the directory in Redis. A directory that cannot be read is counted and logged, once."""
        try:
            self._reconcile(results)
            self._fault = ""
        except HeadStoreError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                _refused(error)

    def _reconcile(self, results: Results) -> None:
        infos = self._infos()
        metrics.HEADS.set(len(infos))
        if infos == results.heads():
            return
        # A directory that cannot be written is not changed from here either, so it needs no lock.
        writable = self.directory.is_dir() and os.access(self.directory, os.W_OK)
        with head_store.alone_in(self.directory) if writable else contextlib.nullcontext():
            results.put_heads(self._infos())

    def _describe(self, name: str) -> StoredHead | Published:
        """Raises HeadStoreError."""
        recurrent = head_store.is_recurrent(self.directory, name)
        return published.describe(self.directory, name) if recurrent else head_store.read(self.directory, name)

    def _infos(self) -> dict[str, str]:
        """The description of every head, as JSON, by its name."""
        there = head_store.names(self.directory)
        described: dict[str, tuple[Fingerprint, str | None]] = {}
        for name, fingerprint in there.items():
            known = self._described.get(name)
            if known is not None and known[0] == fingerprint:
                described[name] = known
                continue
            try:
                described[name] = fingerprint, _info(self._describe(name))
            except NoSuchHeadError:
                continue
            except HeadStoreError as error:
                _refused(error)
                described[name] = fingerprint, None
        self._described = described
        self._classifiers.keep_only(there)
        return {name: info for name, (_, info) in described.items() if info is not None}


def _info(stored: StoredHead | Published) -> str:
    return HeadInfo.model_validate(stored.listed()).model_dump_json()


def _refused(error: HeadStoreError) -> None:
    metrics.REFUSED_HEADS.inc()
    log.error("heads: %s", error)

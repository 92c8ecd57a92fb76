"""Published recurrent classifiers in memory: `Classifiers`, which reads each once while anything uses it."""

import threading
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from weakref import WeakValueDictionary

from engine.openmp import on_passing_thread
from model.checkpoints import head_store
from model.checkpoints.head_store import Fingerprint
from recurrent import published
from recurrent.published import Published

KEPT_PARAMETERS = 10**8  # of all that nothing uses, but always one: 400 MB


class Classifiers:
    """Those of one directory of heads. `get` may be called by any thread."""

    def __init__(self, directory: Path, device: str) -> None:
        self._directory = directory
        self._device = device
        self._reading = threading.Lock()
        self._kept: OrderedDict[str, Published] = OrderedDict()  # asked for last
        # What is no longer kept may still have texts that wait: they are read together with those that come now.
        self._used: WeakValueDictionary[tuple[str, Fingerprint], Published] = WeakValueDictionary()

    def get(self, name: str) -> Published:
        """Raises NoSuchHeadError, HeadStoreError."""
        with self._reading:
            fingerprint = head_store.fingerprint(self._directory, name)
            found = self._used.get((name, fingerprint))
            if found is None:
                # Only the engine's thread may keep a team of OpenMP threads (openmp.py).
                found = on_passing_thread(published.read, self._directory, name, self._device)
                self._used[name, fingerprint] = found
            self._kept[name] = found
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(one.model.network.size for one in self._kept.values()) > KEPT_PARAMETERS:
                self._kept.popitem(last=False)
            return found

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all others."""
        with self._reading:
            for name in self._kept.keys() - set(names):
                del self._kept[name]

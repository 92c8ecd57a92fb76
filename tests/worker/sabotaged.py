"""`python -m tests.worker.sabotaged`: a worker that can be hurt, as SABOTAGE says, or the file SABOTAGE_FILE names.

`kill`, `hang` and `slow` befall blocks with a byte 1 in what they read, `hang all` every block, and `oom N` those of
more than N rows. The file is looked at before every block, so that a test can begin and end the harm under load.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from contract import wire
from engine.backend import BlockRow, BlockRowResult
from engine.torch_backend import TorchBackend
from worker import process

_run = TorchBackend.run


def _harm() -> str:
    try:
        return Path(os.environ["SABOTAGE_FILE"]).read_text()
    except (KeyError, FileNotFoundError):
        return os.environ.get("SABOTAGE", "")


def _sabotaged(
    self: TorchBackend, block: list[BlockRow], interrupted: Callable[[], bool] = lambda: False
) -> list[BlockRowResult]:
    def no_memory() -> bool:
        raise MemoryError("injected")

    touched = any((row.text == 1).any() for row in block)
    match _harm().split():
        case ["kill"] if touched:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["hang"] if touched:
            time.sleep(3600)
        case ["hang", "all"]:
            time.sleep(3600)
        case ["slow"] if touched:  # 20 steps take longer than a hung one is borne, but it moves
            return _run(self, block, lambda: time.sleep(wire.ENGINE_STALLED_S / 12) or interrupted())
        case ["oom", rows] if len(block) > int(rows):
            return _run(self, block, no_memory)  # after the first step
    return _run(self, block, interrupted)


TorchBackend.run = _sabotaged  # type: ignore[method-assign]

if __name__ == "__main__":
    process.main()

"""A fit in a process of its own, because it may take long and much memory: it can be ended at any moment, which frees
its memory, and it takes only the CPU time that the engine leaves.

The child reads a line of JSON, then classes and features as they lie in memory; it writes one object of JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from contract import children
from model.heads.checks import HeadError, Labels
from model.heads.cross_validation import Fitted, fit_cv, fit_unit_cv
from model.heads.l1 import Matrix

_LOOK_S = 0.1
_PIECE_BYTES = 2**22
_NICENESS = 19
_REFUSED = 3  # exit status: its output is a message for the user


class FitProcessError(Exception):
    """The process ended by itself; the message gives its exit status and the end of its errors."""


class FitStopped(Exception):
    """The fit was stopped before it had ended."""


class FitProcess:
    """`fit_cv` or `fit_unit_cv` in a child. Use it as a context manager: at its end the process is killed."""

    def __init__(self, classes: int, unit_only: bool, threads: int, stopped: Callable[[], bool]) -> None:
        """threads: of its products. stopped: called several times a second; where it is true the fit ends."""
        self._request = {"classes": classes, "unit_only": unit_only, "parent": os.getpid()}
        self._stopped = stopped
        # Files, because a child that writes into a full pipe would wait for a reader.
        self._answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(  # noqa: S603 - our own module
            children.command("worker.fit_process"),
            env=children.environment(os.environ)
            | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(threads)),
            stdin=subprocess.PIPE,
            stdout=self._answer,
            stderr=self._errors,
        )

    def __enter__(self) -> "FitProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._answer.close()
        self._errors.close()

    def send(self, features: Matrix, labels: Labels) -> None:
        """features: (rows, units); labels: (rows,). The caller may drop them afterwards. Raises FitStopped."""
        header = json.dumps(self._request | {"rows": len(features), "units": features.shape[1]}).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # the child has ended, and `result` raises the reason
            for part in (header, labels.astype(np.int64).tobytes(), np.ascontiguousarray(features).data.cast("B")):
                for begin in range(0, len(part), _PIECE_BYTES):
                    self._look()
                    self._input.write(part[begin : begin + _PIECE_BYTES])
            self._input.close()

    def result(self) -> Fitted:
        """Waits for the end. Raises HeadError for data that cannot be fitted, FitProcessError and FitStopped."""
        while True:
            self._look()
            try:
                code = self._child.wait(_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                continue
        for file in (self._answer, self._errors):
            file.seek(0)
        answer = self._answer.read()
        if code == _REFUSED:
            raise HeadError(answer.decode())
        if code != 0:
            last = self._errors.read()[-500:].decode(errors="replace").strip()
            raise FitProcessError(f"the process of the fit ended with {code} {last}".strip())
        fields: dict[str, Any] = json.loads(answer)
        return Fitted(**fields | {"weights": {int(unit): row for unit, row in fields["weights"].items()}})

    @property
    def _input(self) -> IO[bytes]:
        assert self._child.stdin is not None  # noqa: S101 - a pipe was asked for
        return self._child.stdin

    def _look(self) -> None:
        if self._stopped():
            raise FitStopped


def main(source: IO[bytes], out: IO[bytes]) -> int:
    """What the child does. Returns its exit status."""
    _lower_priority()
    request = json.loads(source.readline())
    rows, units = request["rows"], request["units"]
    labels = np.frombuffer(source.read(8 * rows), dtype=np.int64)
    features = np.empty((rows, units), dtype=np.float32)
    if len(labels) != rows or _fill(features, source) != features.nbytes:
        return 1  # the worker has ended

    def worker_lives() -> None:
        if os.getppid() != request["parent"]:
            sys.exit(1)

    try:
        if request["unit_only"]:
            fitted = fit_unit_cv(features, labels, on_step=worker_lives)
        else:
            fitted = fit_cv(features, labels, request["classes"], on_step=worker_lives)
    except HeadError as error:
        out.write(str(error).encode())
        return _REFUSED
    out.write(json.dumps(vars(fitted), allow_nan=False).encode())
    return 0


def _lower_priority() -> None:
    """Lower the priority of the process below everything else."""
    if sys.platform == "linux":  # where niceness is a thread's, and NumPy has started threads by now
        for task in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), _NICENESS)
    elif sys.platform != "win32":
        os.nice(_NICENESS)


def _fill(features: Matrix, source: IO[bytes]) -> int:
    """Read until the matrix is full or the source has ended. Returns the bytes read."""
    view, read = features.data.cast("B"), 0
    while read < len(view):
        piece = source.read(min(_PIECE_BYTES, len(view) - read))
        if not piece:
            break
        view[read : read + len(piece)] = piece
        read += len(piece)
    return read


if __name__ == "__main__":
    code = main(sys.stdin.buffer, sys.stdout.buffer)
    sys.stdout.flush()
    sys.exit(code)

"""Training runs that take turns for equal seconds, so that whatever else the machine does falls on all alike.

No text is read twice in so short a run, so the bits per byte of its last tenth, before the model learns from it, are
those of unseen text. The learning rates fall to zero over the bytes that a run is expected to read in its time.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from trainer.run.options import Options
from trainer.run.train import Run

_TURN_S = 5.0
_CALIBRATION_STEPS = 5  # updates, after the first, that the speed of a run is taken from


@dataclass
class Contestant:
    """One run, and what was seen of it."""

    label: str
    run: Run
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)

    def take_turn(self) -> None:
        """Train for one turn, or to the end, and note the mean bits per byte of it."""
        losses: list[float] = []
        began = time.perf_counter()
        while self.left() and time.perf_counter() - began < _TURN_S:
            losses.append(self.run.step()[0][0])
        self.seconds += time.perf_counter() - began
        mean = sum(losses) / len(losses)
        self.curve.append({"bytes": self.run.progress.bytes_seen, "seconds": self.seconds, "bits_per_byte": mean})

    def left(self) -> bool:
        return self.run.progress.bytes_seen < self.run.options.total_bytes

    def result(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "parameters": sum(parameter.numel() for parameter in self.run.model.parameters()),
            "bytes": self.run.progress.bytes_seen,
            "seconds": self.seconds,
            "bits_per_byte": of_the_last_tenth(self.curve),
            "validation_bits_per_byte": self.run.validate().bits_per_byte,
            "curve": self.curve,
        }


def hold(entries: Sequence[tuple[str, Options]], seconds: float) -> list[dict[str, Any]]:
    """Train each (label, options) for about `seconds`; `total_bytes` is set by that. Results in the same order."""
    with tempfile.TemporaryDirectory() as scratch:
        contestants = []
        for number, (label, options) in enumerate(entries):
            options = replace(options, validate_every_bytes=10**12, snapshot_every_s=1e9)
            speed, lanes = _speed_and_lanes(Path(scratch) / f"speed-{number}", options)
            options = replace(options, lanes=lanes)
            total = int(speed * seconds) // options.update_bytes * options.update_bytes
            run = Run.create(Path(scratch) / f"run-{number}", replace(options, total_bytes=total), _ignore)
            contestants.append(Contestant(label, run))
        while waiting := [contestant for contestant in contestants if contestant.left()]:
            for contestant in waiting:
                contestant.take_turn()
            done = sum(contestant.seconds for contestant in contestants)
            click.echo(f"\r{done:,.0f} of about {seconds * len(contestants):,.0f} s", nl=False, err=True)
        click.echo(err=True)
        return [contestant.result() for contestant in contestants]


def of_the_last_tenth(curve: list[dict[str, float]]) -> float:
    """Mean bits per byte of the turns that end in the last tenth of the bytes, weighed by their bytes."""
    begin = 0.9 * curve[-1]["bytes"]
    pairs = zip([{"bytes": 0.0}, *curve], curve, strict=False)
    turns = [
        (after["bytes"] - before["bytes"], after["bits_per_byte"]) for before, after in pairs if after["bytes"] > begin
    ]
    return sum(size * bits for size, bits in turns) / sum(size for size, _ in turns)


def _speed_and_lanes(scratch: Path, options: Options) -> tuple[float, int]:
    """Bytes a second, and the lanes, which the options may leave to the device."""
    run = Run.create(scratch, options, _ignore)
    run.step()
    began = time.perf_counter()
    for _ in range(_CALIBRATION_STEPS):
        run.step()
    return _CALIBRATION_STEPS * run.options.update_bytes / (time.perf_counter() - began), run.options.lanes


def _ignore(_: dict[str, Any]) -> None:
    pass

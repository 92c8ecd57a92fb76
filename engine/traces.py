"""Traces as JSON: of every byte that was read, its place in the text, and what units and a head make of it.

A text that grows is traced from where it is new (`first_byte`): the bytes before that are read, but not answered.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.jobs import Offsets
from engine.rows import RowRequest
from model.heads.classifier import Head, head_log_odds
from model.heads.pooling import pool
from model.heads.unit import Calibration
from texts.preparation import SUFFIX, align


class Places:
    """Of every prepared byte of a text, the characters that it belongs to, counted by `offsets`."""

    def __init__(self, text: str, offsets: Offsets = "characters") -> None:
        """text: as it was sent, before it was prepared."""
        self._text = text
        self._origins = align(text)
        # Of every character, and of the end; a character beyond the first plane is two units of UTF-16.
        self._counted: Sequence[int] = range(len(text) + 1)
        if offsets == "utf-16":
            self._counted = [0, *itertools.accumulate(1 + (character > "\uffff") for character in text)]

    def first_byte(self, start: int) -> int:
        """The number of the first prepared byte of the characters from `start` on.

        0 for 0, and behind the last character that of the end, which preparation adds.
        """
        if start == 0:
            return 0
        behind = (number for number, origin in enumerate(self._origins) if self._counted[origin.end] > start)
        return next(behind, len(self._origins) - len(SUFFIX))

    def steps(self, first: int) -> list[dict[str, Any]]:
        """The prepared bytes from number `first` on, each with its place and its characters."""
        return [
            {
                "byte": origin.byte,
                "start": self._counted[origin.start],
                "end": self._counted[origin.end],
                "text": self._text[origin.start : origin.end],
            }
            for origin in self._origins[first:]
        ]


def trace_json(
    places: Places,
    values: NDArray[np.float32],
    units: Sequence[int],
    calibration: Calibration | None,
    first: int = 0,
    probabilities: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """The units, and of every byte that was read its place in the text and the units' values after it.

    values: (bytes, units), of the prepared bytes from number `first` on, one column for each of `units`. probabilities:
    (bytes, labels), what a head makes of the state after each. Where the unit of `calibration` is among them, every
    byte also has its `sentiment`, in [-1, 1]. Raises ValueError where `values` has another number of rows than there
    are such bytes.
    """
    sentiment_at = units.index(calibration.unit) if calibration is not None and calibration.unit in units else None
    steps = places.steps(first)
    for step, row in zip(steps, values.tolist(), strict=True):
        step["values"] = row
        if calibration is not None and sentiment_at is not None:
            step["sentiment"] = calibration.sentiment(row[sentiment_at])
    if probabilities is not None:
        for step, of_labels in zip(steps, probabilities.tolist(), strict=True):
            step["probabilities"] = of_labels
    return {"units": list(units), "sentiment_unit": calibration and calibration.unit, "bytes": steps}


def with_log_odds(request: RowRequest, head: Head) -> RowRequest:
    """The same trace with the log-odds of a head behind the units: its own units are many, and are not kept."""
    units = request.traced
    traced = (*units, *sorted(set(head.weights) - set(units)))
    columns = {unit: column for column, unit in enumerate(traced)}
    renumbered = replace(head, weights={columns[unit]: row for unit, row in head.weights.items()})

    def reduce(values: NDArray[np.float32]) -> NDArray[np.float32]:
        log_odds = head_log_odds(renumbered, pool(values, None, head.pooling))
        return np.concatenate([values[:, : len(units)], log_odds.astype(np.float32)], axis=1)

    return replace(request, traced=traced, reduce=reduce)

"""What `Neuron` returns: `Classification`, `Sample` and `Trace`. Their names are those of the JSON of the service."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentiment_neuron import heat_maps
from sentiment_neuron.heat_maps import HeatMap


@dataclass(frozen=True)
class Classification:
    """What a head says of a text, and what the sentiment unit holds after it."""

    label: str
    score: float  # probability of the label
    probabilities: dict[str, float]  # label -> probability
    sentiment: float | None  # the sentiment unit, calibrated to [-1, 1]; None where the model has none
    unit_value: float | None  # its raw value


@dataclass(frozen=True)
class Sample:
    """A generated text, without the prompt."""

    text: str
    mean_log_probability: float  # nats a byte under the model at temperature 1
    finish_reason: Literal["length", "stop"]
    index: int  # number of the sample among those that were drawn
    seed: int  # of the call: with it and the same arguments the call gives the same samples
    positive: float | None = None  # probability by the head `sentiment`, where samples are ranked by it


@dataclass(frozen=True, eq=False)
class Trace:
    """Units after every byte of the prepared text. A notebook shows it as a heat map for each unit."""

    text: str
    units: list[int]
    values: NDArray[np.float32]  # (bytes, units)
    sentiment: NDArray[np.float64] | None  # (bytes,): calibrated, where the sentiment unit is traced
    spans: list[tuple[int, int]]  # (bytes,): characters of `text`, from and to; empty for a byte that preparation adds
    sentiment_unit: int | None
    model: str  # its name and step

    @classmethod
    def of(cls, text: str, answer: dict[str, Any], sentiment_unit: int | None) -> "Trace":
        """answer: the result of a trace job as JSON (engine/plans.py)."""
        steps = answer["bytes"]
        calibrated = sentiment_unit in answer["units"]
        return cls(
            text,
            answer["units"],
            np.array([step["values"] for step in steps], dtype=np.float32),
            np.array([step["sentiment"] for step in steps]) if calibrated else None,
            [(step["start"], step["end"]) for step in steps],
            sentiment_unit,
            "{name}, step {step}".format(**answer["model"]),
        )

    @cached_property
    def heat_maps(self) -> list[HeatMap]:
        """One for each unit; that of the sentiment unit is calibrated."""
        maps = []
        for column, unit in enumerate(self.units):
            is_sentiment = self.sentiment is not None and unit == self.sentiment_unit
            values = self.sentiment if is_sentiment else self.values[:, column]
            assert values is not None  # noqa: S101 - mypy does not follow is_sentiment
            maps.append(heat_maps.heat_map(self.text, self.spans, values.tolist(), unit, is_sentiment))
        return maps

    def html(self) -> str:
        """A page of HTML that needs nothing but itself."""
        return heat_maps.html_page(self.text, self.heat_maps, self.model)

    def _repr_html_(self) -> str:
        return heat_maps.html_fragment(self.heat_maps)

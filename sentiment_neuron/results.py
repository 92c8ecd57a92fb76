"""What `Neuron` returns: `Classification`, `Sample` and `Trace`. Their names are those of the JSON of the service."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatmaps.cells import HeatMap, heat_maps
from heatmaps.html import html_fragment, html_page
from heatmaps.picture import svg


@dataclass(frozen=True)
class Classification:
    """What a head says of a text, and what the sentiment unit holds after it."""

    label: str
    score: float  # probability of the label
    margin: float  # by which the label is more probable than the next; near 0 the head is unsure
    probabilities: dict[str, float]  # label -> probability
    expected_value: float | None  # mean of the labels by their probabilities; None where one of them is no number
    unit_sentiment: float | None  # the sentiment unit, calibrated to [-1, 1]; None where the model has none
    sentiment: float | None  # the former name of unit_sentiment
    unit_value: float | None  # its raw value
    bits_per_byte: float | None  # how well the model predicts the text; None where the checkpoint has no limits for it
    warning: str | None  # set where the text is unlike what the model has learnt from


@dataclass(frozen=True)
class Sample:
    """A generated text, without the prompt."""

    text: str
    mean_log_probability: float  # nats a byte under the model at temperature 1
    finish_reason: Literal["length", "stop"]
    index: int  # number of the sample among those that were drawn
    seed: int  # of the call: with it and the same arguments the call gives the same samples
    positive: float | None = None  # probability by the head `sentiment`, where samples are ranked by it
    bytes: list[dict[str, float]] | None = None  # with log_probabilities: `byte`, `log_probability` in nats, of each


@dataclass(frozen=True, eq=False)
class Trace:
    """Units after every byte of the prepared text. A notebook shows it as a heat map for each unit."""

    text: str
    units: list[int]
    values: NDArray[np.float32]  # (bytes, units)
    sentiment: NDArray[np.float64] | None  # (bytes,): calibrated, where the sentiment unit is traced
    spans: list[tuple[int, int]]  # (bytes,): characters of `text`, from and to; empty for a byte that preparation adds
    heat_maps: list[HeatMap]  # one for each unit; that of the sentiment unit is calibrated
    model: str  # its name and step
    labels: list[str] | None = None  # of the head, where one was asked for
    probabilities: NDArray[np.float64] | None = None  # (bytes, labels): what the head makes of the state there

    @classmethod
    def of(cls, text: str, answer: dict[str, Any]) -> "Trace":
        """answer: the result of a trace job as JSON (engine/traces.py)."""
        steps = answer["bytes"]
        calibrated = answer.get("sentiment_unit") in answer["units"]
        return cls(
            text=text,
            units=answer["units"],
            values=np.array([step["values"] for step in steps], dtype=np.float32),
            sentiment=np.array([step["sentiment"] for step in steps]) if calibrated else None,
            spans=[(step["start"], step["end"]) for step in steps],
            heat_maps=heat_maps(text, answer),
            model="{name}, step {step}".format(**answer["model"]),
            labels=answer.get("labels"),
            probabilities=np.array([step["probabilities"] for step in steps]) if answer.get("labels") else None,
        )

    def html(self) -> str:
        """A page of HTML that needs nothing but itself."""
        return html_page(self.text, self.heat_maps, self.model)

    def svg(self) -> str:
        """A picture for a report."""
        return svg(self.text, self.heat_maps, self.model)

    def _repr_html_(self) -> str:
        return html_fragment(self.heat_maps)

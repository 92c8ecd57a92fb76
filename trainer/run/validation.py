"""Validation: how well a model predicts the first bytes of the validation shard, read as one piece for each lane."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.network.objective import Objective
from model.network.sequence import Window
from trainer.corpus.corpus import Corpus
from trainer.run.distributed import World
from trainer.run.options import Options, TrainingError


@dataclass(frozen=True)
class Validated:
    """label_accuracy, unit_accuracy: the share of held-out reviews whose label the read-outs predict after the last
    byte, every class of a source weighing the same (trainer/corpus/labels.py); None where no labels are learnt or held
    out."""

    bits_per_byte: float
    label_accuracy: float | None = None
    unit_accuracy: float | None = None


def held_out_text(corpus: Corpus, options: Options, lanes: range) -> Tensor:
    """The validation text of a run, cut for these lanes: (steps + 1, lanes) int64, steps being whole windows, at least
    one.

    Every lane reads a piece of its own; the last row has targets only. Raises TrainingError if the shard is too short.
    """
    least = options.lanes * options.window + 1
    if corpus.validation.bytes < least:
        raise TrainingError(
            f"the validation shard holds {corpus.validation.bytes} bytes, too few for {options.lanes} lanes of a "
            f"window of {options.window}, {least}: lower --lanes or --window, or build the corpus with fewer --shards "
            "or more --held-out"
        )
    usable = min(corpus.validation.bytes, max(options.validation_bytes, least))
    steps = (usable - 1) // options.lanes // options.window * options.window
    data = corpus.read(corpus.validation)
    pieces = [data[lane * steps : (lane + 1) * steps + 1] for lane in lanes]
    return torch.from_numpy(np.stack(pieces, axis=1).astype(np.int64))


class Validation:
    """The validation text of a run, on the device."""

    def __init__(self, corpus: Corpus, options: Options, mine: range, device: torch.device) -> None:
        """mine: the lanes of this process. Raises TrainingError if the shard is too short."""
        self._window = options.window
        self._text = held_out_text(corpus, options, mine).to(device)  # (steps + 1, lanes)
        steps = len(self._text) - 1
        self._classes, self._last = torch.zeros(0), torch.zeros(0)
        if options.learns_labels and (reviews := corpus.read_reviews(corpus.validation)) is not None:
            classes = np.zeros((steps, len(mine)), np.int64)
            last = np.zeros((steps, len(mine)), np.float32)  # the review's weight at its last byte, else 0
            for column, lane in enumerate(mine):
                begin = lane * steps
                whole = (reviews.starts >= begin) & (reviews.ends <= begin + steps)
                at = reviews.ends[whole] - 1 - begin
                classes[at, column], last[at, column] = reviews.classes[whole], reviews.weights[whole]
            self._classes, self._last = torch.from_numpy(classes).to(device), torch.from_numpy(last).to(device)

    @torch.no_grad()
    def run(self, objective: Objective, runner: Window, world: World) -> Validated:
        """Measure the model on all lanes of all processes (collective)."""
        steps, lanes = len(self._text) - 1, self._text.shape[1]
        state = objective.model.zero_state(lanes)
        bits = torch.zeros((), device=self._text.device)
        right = torch.zeros(3, device=self._text.device)  # by all units, by the one, and the weight of all reviews
        for begin in range(0, steps, self._window):
            part = slice(begin, begin + self._window)
            hidden, cells, state = objective.read(self._text[part], state, runner)
            bits += objective.model.bits(hidden, self._text[begin + 1 : begin + self._window + 1])
            if objective.read_out is not None and len(self._last):
                classes, last = self._classes[part], self._last[part]
                found = [(logits.argmax(-1) == classes) * last for logits in objective.read_out(cells)]
                right += torch.stack([part.sum() for part in (*found, last)])
        of_all, of_unit, weight = world.mean(right).tolist()
        bits_per_byte = float(world.mean(bits)) / (steps // self._window)
        if weight == 0:
            return Validated(bits_per_byte)
        return Validated(bits_per_byte, of_all / weight, of_unit / weight)

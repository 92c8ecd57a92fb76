"""Learning: the same network from the same seed, the best pass kept, and what ends it early."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recurrent.classifier import fit, split
from recurrent.learning import DivergedError, Epoch, Learner
from recurrent.options import OptionError, Options
from recurrent.targets import deviation, score
from tests.recurrent.reviews import LABELS, TEXTS

SMALL = Options(embedding=8, units=8, batch_size=8, epochs=6, learning_rate=0.02, schedule="constant", min_df=1)
Y = np.array([float(label == "good") for label in LABELS])


def fitted(options: Options = SMALL, seed: int = 0, **more: Any) -> Any:
    return fit(options, "binary", ["bad", "good"], TEXTS, Y, seed=seed, device="cpu", **more)


@pytest.mark.parametrize("cell", ["gru", "lstm", "mlstm", "rnn"])
def test_a_seed_makes_one_network_and_leaves_torchs_own_generator_alone(cell: Any) -> None:
    options = replace(SMALL, cell=cell, epochs=2)
    torch.manual_seed(5)
    first = fitted(options)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again, other = fitted(options), fitted(options, seed=1)
    assert (first.outputs(TEXTS) == again.outputs(TEXTS)).all()
    assert not (first.outputs(TEXTS) == other.outputs(TEXTS)).all()


@pytest.mark.parametrize("name", ["sgd", "momentum", "nag", "rmsprop", "adagrad", "adadelta", "adam"])
def test_every_optimizer_lowers_the_loss(name: Any) -> None:
    options = replace(SMALL, optimizer=name, learning_rate=None, epochs=40, patience=40, dropout=0, batch_size=4)
    losses = [epoch.loss for epoch in fitted(options).history]
    assert losses[-1] < losses[0] / 2


def test_the_pass_with_the_lowest_loss_on_texts_held_out_is_kept() -> None:
    seen: list[Epoch] = []
    model = fitted(replace(SMALL, epochs=40, patience=3, learning_rate=0.1), on_epoch=seen.append)
    assert model.history == seen
    losses = [epoch.valid_loss for epoch in seen]
    best = int(np.argmin(losses))
    assert len(seen) == min(40, best + 1 + 3)
    assert len(seen) < 40
    learner = Learner(model.network, "binary", model.options, 0)
    held = sorted(set(range(len(TEXTS))) - set(learned_from(model)))
    assert len(held) == round(0.1 * len(TEXTS))
    valid = model.labelled([TEXTS[number] for number in held], Y[held])
    assert learner._evaluate(valid)[0] == pytest.approx(losses[best], rel=1e-5)


def learned_from(model: Any) -> list[int]:
    return split("binary", Y, model.options.validation_fraction, 0)[0].tolist()


def test_numbers_that_are_all_one_but_for_rounding_are_constant() -> None:
    y = np.full(7, 0.1)
    assert y.std() > 0  # by rounding
    assert deviation(y) == 0
    assert deviation(np.array([1e9, 1e9 + 1])) == 0.5
    assert score("value", np.zeros((7, 1), np.float32), y) == 0


def test_a_network_that_could_not_be_kept_is_not_made() -> None:
    with pytest.raises(OptionError, match="parameters, more than the 1,000,000,000 allowed: lower units"):
        fitted(replace(SMALL, units=16_384))


def test_all_texts_are_learned_from_where_none_are_held_out() -> None:
    model = fitted(replace(SMALL, validation_fraction=0, epochs=2))
    assert model.examples == len(TEXTS)
    assert [epoch.valid_loss for epoch in model.history] == [None, None]


def test_weights_of_losses_change_the_answer() -> None:
    """Texts that say nothing: the probability becomes the weighted share."""
    texts, y = ["the same"] * 40, np.array([1.0] * 20 + [0.0] * 20)
    options = replace(SMALL, validation_fraction=0, dropout=0, epochs=60, batch_size=40)
    weights = np.where(y == 1, 1.5, 0.5)
    model = fit(options, "binary", ["a", "b"], texts, y, weights, device="cpu")
    assert model.probabilities(["the same"])[0, 1] == pytest.approx(0.75, abs=0.02)


def test_the_pass_that_is_kept_is_best_by_the_weighted_loss() -> None:
    weights = np.where(Y == 1, 1.9, 0.1)
    model = fitted(replace(SMALL, epochs=3), weights=weights)
    held = np.setdiff1d(np.arange(len(TEXTS)), learned_from(model))
    texts = [TEXTS[number] for number in held]
    plain, weighted = (
        Learner(model.network, "binary", model.options, 0)._evaluate(model.labelled(texts, Y[held], some))[0]
        for some in (None, weights[held])
    )
    assert weighted == pytest.approx(min(epoch.valid_loss for epoch in model.history), rel=1e-5)
    assert weighted != pytest.approx(plain, rel=1e-3)


def test_a_loss_that_is_no_number_ends_it() -> None:
    with pytest.raises(DivergedError, match=r"lower learning_rate \(1e\+30\) or clip \(None\)"):
        fitted(replace(SMALL, optimizer="sgd", learning_rate=1e30, clip=None), weights=np.full(len(TEXTS), 1e20))


@pytest.mark.parametrize(
    ("texts", "batch", "epochs"), [(100, 16, 50), (1_000, 16, 24), (10_000, 16, 3), (10_001, 32, 5), (100_000, 32, 3)]
)
def test_batches_and_passes_are_by_the_number_of_texts(texts: int, batch: int, epochs: int) -> None:
    assert (Options().batch_size_for(texts), Options().epochs_for(texts)) == (batch, epochs)
    assert (Options(batch_size=7).batch_size_for(texts), Options(epochs=9).epochs_for(texts)) == (7, 9)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokens": "letters"}, "tokens is 'letters', not one of words, bytes"),
        ({"units": 0}, "units is 0, not a whole number of 1 to 16,384"),
        ({"units": True}, "units is True"),
        ({"epochs": 1.5}, "epochs is 1.5, not a whole number of 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, not a number of 0 or more and below 1"),
        ({"clip": 0}, "clip is 0, not a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"bidirectional": 1}, "bidirectional is 1, neither true nor false"),
        ({"optimizer": "lion"}, "optimizer is 'lion', not one of sgd, momentum"),
    ],
)
def test_an_option_that_is_not_valid_says_so(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError) as error:
        Options(**wrong)
    assert told in str(error.value)

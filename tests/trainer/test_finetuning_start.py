"""Where a fine-tuning starts: which cells its read-outs are fitted on, and that they are right on all bytes."""

import numpy as np
import torch

from model.heads.classifier import fit_l1, head_log_odds
from model.network.objective import ReadOut
from texts.labelled import Labelled
from trainer.finetuning.start import fit_read_out, places
from trainer.finetuning.task import Task

UNIT = 1


def cells(texts: int, seed: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """(texts, 4 places, 5 units): unit 0 + class tells the class, unit UNIT the second one somewhat; the last unit
    stands nearly still at ends, and there alone tells the classes apart.
    """
    draw = np.random.default_rng(seed)
    y = np.arange(texts) % classes
    found = draw.normal(size=(texts, 4, 5)).astype(np.float32)
    for label in range(classes):
        found[y == label, :, label] += 2.0
    found[:, 0, 4] = 0.001 * y
    return found, y


def label_bits(read_out: ReadOut, found: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of all places, a text, by all units and by the one."""
    with torch.no_grad():
        bits = [
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y.repeat(found.shape[1])))
            / np.log(2)
            for logits in read_out(torch.from_numpy(found))
        ]
    return float(bits[0]), float(bits[1])


def test_places_are_the_end_and_bytes_by_their_weight_in_the_loss() -> None:
    lengths = np.full(2000, 10)
    at = places(lengths, np.random.default_rng(0))
    assert at.shape == (8, 2000)
    assert (at[0] == 9).all()
    share = np.bincount(at[1:].ravel(), minlength=10) / at[1:].size
    np.testing.assert_allclose(share, 2 * np.arange(1, 11) / 110, atol=0.01)
    assert places(np.ones(3, np.int64), np.random.default_rng(0)).max() == 0
    assert places(np.full(30_000, 5), np.random.default_rng(0)).shape == (3, 30_000)


def test_the_read_outs_are_right_on_all_bytes_and_give_what_the_head_gives() -> None:
    train, valid = cells(200, 0), cells(100, 1)
    read_out = ReadOut(5, 2, UNIT)
    fit_read_out(read_out, train, valid, ["0", "1"], of_unit=True)
    by_all, by_unit = label_bits(read_out, *valid)
    assert by_all < 0.6
    assert by_all < by_unit < 0.9
    head = fit_l1(train[0].reshape(-1, 5), train[1].repeat(4), valid[0][:, 0], valid[1], ["0", "1"])
    logits = read_out(torch.from_numpy(valid[0][:, 0]))[0].detach().numpy()
    np.testing.assert_allclose(logits[:, 1:] - logits[:, :1], head_log_odds(head, valid[0][:, 0]), rtol=1e-4, atol=1e-4)


def test_three_labels_leave_the_one_unit_alone() -> None:
    read_out = ReadOut(5, 3, UNIT)
    was = read_out.unit_weight.detach().clone()
    fit_read_out(read_out, cells(300, 0, 3), cells(90, 1, 3), ["a", "b", "c"], of_unit=False)
    assert label_bits(read_out, *cells(90, 2, 3))[0] < 1.2  # of log2(3) by chance
    assert torch.equal(read_out.unit_weight, was)


def test_a_unit_that_stands_still_keeps_its_direction() -> None:
    train, valid = cells(100, 0), cells(50, 1)
    for found, _ in (train, valid):
        found[:, :, UNIT] = 0.5
    read_out = ReadOut(5, 2, UNIT)
    fit_read_out(read_out, train, valid, ["0", "1"], of_unit=True)
    assert read_out.unit_weight.tolist() == [-1.0, 1.0]


def test_a_part_has_every_label_whatever_the_order() -> None:
    labels = ["0"] * 80 + ["1"] * 19 + ["2"]
    task = Task.of(Labelled([f"text {number}" for number in range(100)], labels), ["0", "1", "2"])
    part = task.part(10)
    assert np.bincount(part.classes).tolist() == [8, 1, 1]
    assert part.texts[0] == task.texts[0]
    assert part.texts[7] == task.texts[79]
    assert task.part(100) is task

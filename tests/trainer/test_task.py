"""A task's texts are cut into batches and windows that hold every text, and every byte, once."""

import tracemalloc

import numpy as np
import torch

from tests.support.tasks import labelled
from trainer.finetuning.task import Task


def test_windows_hold_every_byte_once_and_a_text_weighs_one() -> None:
    task = Task.of(labelled(7), ["0", "1"])
    chosen = np.arange(7)
    longest = max(len(text) for text in task.texts)
    for window in (1, 4, longest - 1, longest, 100):
        texts = [b""] * 7
        weight, ends, predicted = torch.zeros(7), torch.zeros(7), 0
        for text, targets, last in task.windows(chosen, window):
            assert targets.classes is not None
            assert targets.weights is not None
            assert len(text) <= window + 1
            assert (targets.bytes != -100).any(), "every window has something to predict"
            assert (targets.classes == torch.from_numpy(task.classes)).all()
            for row in range(7):
                counted = targets.weights[:, row] > 0
                texts[row] += bytes(text[counted, row].tolist())
            weight += targets.weights.sum(0)
            ends += last.sum(0)
            predicted += int((targets.bytes != -100).sum())
        assert texts == task.texts
        torch.testing.assert_close(weight, torch.ones(7))
        assert (ends == 1).all()
        assert predicted == sum(len(text) - 1 for text in texts)


def test_one_long_text_takes_no_memory_for_all_rows() -> None:
    task = Task([b"x" * 1_000_000] + [b"short"] * 63, np.zeros(64, np.int64))
    tracemalloc.start()
    try:
        windows = task.windows(np.arange(64), 256)
        for _ in range(3):
            next(windows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000, "of 256 bytes, a window takes half a megabyte"


def test_batches_hold_every_text_once_and_lengths_alike() -> None:
    task = Task.of(labelled(301), ["0", "1"])
    for generator in (None, np.random.default_rng(0)):
        batches = task.batches(16, generator)
        assert sorted(np.concatenate(batches).tolist()) == list(range(301))
        spread = [len(task.texts[batch[0]]) - len(task.texts[batch[-1]]) for batch in batches]
        assert min(spread) >= 0
        assert max(spread) <= 3
    one, two = (task.batches(16, np.random.default_rng([0, epoch])) for epoch in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))

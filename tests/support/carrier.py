"""A model whose unit 5 carries a mark in the text, so that every right answer is known, and texts with that mark."""

from pathlib import Path

import matplotlib.image
import numpy as np
import torch

from evaluation.sets import Sets
from model.network.language_model import Architecture, LanguageModel
from texts.labelled import Labelled

UNITS, UNIT = 12, 5


def carrier(seed: int = 0) -> LanguageModel:
    """Unit 5 goes to 1 at a "+", to -1 at a "-", and stays there; held, it writes g above zero and b below."""
    model = LanguageModel(Architecture("mlstm", UNITS, 8))
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    cell = model.cell
    with torch.no_grad():
        model.embedding[:, 0] = 0.0
        model.embedding[ord("+"), 0], model.embedding[ord("-"), 0] = 1.0, -1.0
        for gate, (gain, bias) in enumerate([(0.0, 7.0), (0.0, 7.0), (0.0, 7.0), (4.0, 0.0)]):  # i, f, o, u
            column = gate * UNITS + UNIT
            cell.wx[:, column] = 0.0
            cell.wx[0, column] = 1.0
            cell.gx[column], cell.gh[column], cell.b[column] = gain, 0.0, bias
        model.output_w.zero_()
        model.output_w[UNIT, ord("g")], model.output_w[UNIT, ord("b")] = 20.0, -20.0
        model.output_b.fill_(-50.0)
        model.output_b[ord(" ")] = 14.0
        model.output_b[[ord("g"), ord("b")]] = 0.0
    return model


def labelled(rows: int, seed: int, marks: str = "-+", noise: float = 0.0) -> Labelled:
    """Texts with a mark; the label is which, but for a share `noise` of them."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, len(marks), rows)
    texts = [f"text {draw.integers(1000, 9999)} {marks[c]} says nothing {draw.integers(10**9)}" for c in classes]
    wrong = draw.random(rows) < noise
    return Labelled(texts, [str((c + w) % len(marks)) for c, w in zip(classes, wrong, strict=True)])


def sets(noise: float = 0.0, valid: bool = True, marks: str = "-+") -> Sets:
    return Sets(
        labelled(120, 1, marks, noise), labelled(60, 2, marks, noise) if valid else None, labelled(60, 3, marks, noise)
    )


def flipped(part: Labelled) -> Labelled:
    return Labelled(part.texts, ["1" if label == "0" else "0" for label in part.labels])


def letters(rows: int, seed: int) -> Labelled:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    texts = [" ".join("bg"[label] * int(draw.integers(2, 9)) for _ in range(6)) for label in labels]
    return Labelled(texts, [str(label) for label in labels])


def assert_pictures(out: Path, names: list[str]) -> None:
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    for name in names:
        picture = matplotlib.image.imread(out / f"{name}.png")
        assert min(picture.shape[:2]) > 100
        assert float(picture.std()) > 0.01  # something is drawn

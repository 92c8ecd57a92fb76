from pathlib import Path

import torch

from engine.folded import FoldedModel
from evaluation import generation
from evaluation.features import Reader
from evaluation.rows import run_rows
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import Head
from model.heads.unit import Calibration
from tests.support.carrier import UNIT, assert_pictures, carrier, letters


def test_generation_is_judged_by_what_it_says(reader: Reader, tmp_path: Path) -> None:
    report = generation.evaluate(reader, letters(60, 1), letters(30, 2), 12, 40, 1.0, 0)
    values = report.values
    kinds = {(kind["prompt"], kind["sentiment"]): kind for kind in values["kinds"]}
    assert len(kinds) == 6
    for prompt in generation.PROMPTS:
        assert kinds[prompt, 1.0]["on_asked_side"] == kinds[prompt, -1.0]["on_asked_side"] == 1.0
        assert kinds[prompt, 0.0]["on_asked_side"] is None
        assert len(kinds[prompt, 1.0]["texts"]) == 12
        assert kinds[prompt, 1.0]["distinct"] > 6
        assert all(one["text"].startswith(prompt) for one in kinds[prompt, 1.0]["texts"])
    assert (values["on_asked_side"], values["accuracy_judge"]) == (1.0, 1.0)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["generation"])
    assert "I couldn't figure out" in (tmp_path / "report.md").read_text()
    assert values["on_asked_side_ranked"] is None


def test_the_best_of_several_are_those_that_the_head_ranks_first(tmp_path: Path) -> None:
    """Two letters are drawn by chance, whatever is held; the judge knows gg and bb, the head counts letters."""
    model = carrier()
    with torch.no_grad():
        model.output_w.zero_()
        model.output_b[ord(" ")] = -50.0
        model.embedding[ord("g"), 0], model.embedding[ord("b"), 0] = 1.0, -1.0
    head = Head(["negative", "positive"], {UNIT: [1.0]}, [0.0], pooling="mean")
    manifest = Manifest("lot", 1, model.architecture, 1, None, {}, Calibration(UNIT, 1, 0.0, 1.0), {"sentiment": head})
    reader = Reader(volumes.publish(tmp_path / "volume", model, manifest, torch.float32), tmp_path / "cache")
    values = generation.evaluate(reader, letters(60, 1), letters(30, 2), 40, 2, 1.0, 0, best_of=16).values
    free = {kind["sentiment"]: kind for kind in values["kinds"] if not kind["prompt"]}
    assert sum(free[side]["on_asked_side"] for side in (1.0, -1.0)) < 1.4
    for side in (1.0, -1.0):
        assert free[side]["ranked"]["on_asked_side"] > 0.9
        assert len(free[side]["texts"]) == len(free[side]["ranked"]["texts"]) == 40
    assert values["on_asked_side_ranked"] > values["on_asked_side"]


def test_a_newline_ends_a_sample_and_a_seed_makes_it_again(reader: Reader) -> None:
    def write(seed: int) -> list[str]:
        requests = generation.sample_requests("", {UNIT: 1.0}, 6, 30, 1.0, seed)
        return [row.text for row in run_rows(reader.model, requests)]

    assert write(1) == write(1) != write(2)
    assert all(len(text) == 30 for text in write(1))
    with torch.no_grad():
        model = carrier()
        model.output_b[ord("\n")] = 13.0
    requests = generation.sample_requests("", {UNIT: 1.0}, 20, 30, 1.0, 1)
    ended = [row.text for row in run_rows(FoldedModel(model, dtype=torch.float32), requests)]
    assert len({len(text) for text in ended}) > 3
    assert not any("\n" in text for text in ended)

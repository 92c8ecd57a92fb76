"""POST /classify over HTTP, through Redis and Celery to the engine and back."""

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from model.heads.classifier import head_probabilities
from texts.preparation import prepare

TEXTS = ["A delightful film.", "A waste of time!", "Ünïcode, &amp; entities\nand lines.", "x" * 500]


def test_answers_in_the_order_of_the_texts_what_the_model_says(client: httpx.Client, tiny_volume: Path) -> None:
    answer = client.post("/classify", json={"texts": TEXTS, "head": "sentiment"}).raise_for_status().json()

    loaded = checkpoint.read(volumes.latest(tiny_volume))
    features = read_features(FoldedModel(loaded.model, dtype=torch.float32), [prepare(text) for text in TEXTS])
    calibration = loaded.manifest.sentiment
    assert calibration is not None
    expected = head_probabilities(loaded.manifest.heads["sentiment"], features)
    assert answer["model"] == {"name": "tiny", "step": 1}
    assert answer["head"] == "sentiment"
    for result, (negative, positive), cell in zip(answer["results"], expected, features, strict=True):
        assert result["probabilities"] == pytest.approx({"negative": negative, "positive": positive}, abs=1e-5)
        assert result["label"] == ("positive" if positive > negative else "negative")
        assert result["score"] == pytest.approx(max(negative, positive), abs=1e-5)
        assert result["unit_value"] == pytest.approx(cell[calibration.unit], abs=1e-5)
        assert result["margin"] == pytest.approx(abs(positive - negative), abs=1e-5)
        assert result["expected_value"] is None
        sentiment = np.clip(-(cell[calibration.unit] - 0.1) / 0.5, -1, 1)
        assert result["unit_sentiment"] == result["sentiment"] == pytest.approx(sentiment, abs=1e-4)


def test_text_is_short_for_a_list_of_one(client: httpx.Client) -> None:
    single = client.post("/classify", json={"text": TEXTS[0]}).raise_for_status().json()
    listed = client.post("/classify", json={"texts": TEXTS[:1]}).raise_for_status().json()
    assert single["results"] == listed["results"]


def test_a_head_of_three_labels(client: httpx.Client) -> None:
    answer = client.post("/classify", json={"text": TEXTS[0], "head": "length"}).raise_for_status().json()
    probabilities = answer["results"][0]["probabilities"]
    assert list(probabilities) == ["short", "medium", "long"]
    assert sum(probabilities.values()) == pytest.approx(1.0)


def test_an_unknown_head_is_named_with_those_that_exist(client: httpx.Client) -> None:
    response = client.post("/classify", json={"text": "x", "head": "irony"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"].endswith(":unknown-head")
    assert "'irony'" in problem["detail"]
    assert "length, sentiment" in problem["detail"]


@pytest.mark.parametrize(
    ("content_type", "encoding", "status"),
    [
        ("application/json", "utf-8", 200),
        ("application/json; charset=utf-8", "utf-8", 200),
        ("application/json", "utf-16", 200),
        ("application/merge-patch+json", "utf-8", 200),
        ("text/plain", "utf-8", 415),
    ],
)
def test_any_spelling_of_json_is_read(client: httpx.Client, content_type: str, encoding: str, status: int) -> None:
    content = '{"text": "Good, \u00e9 and all."}'.encode(encoding)
    assert client.post("/classify", content=content, headers={"Content-Type": content_type}).status_code == status

"""POST /featurize: JSON floats, base64 and .npy carry the same vectors, and they are the model's."""

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints import checkpoint, volumes
from tests.support.exact import mean_hidden
from texts.preparation import prepare

TEXTS = ["Short.", "A somewhat longer text about nothing in particular.", "中文 and 🎬"]


@pytest.fixture(scope="module")
def expected(tiny_volume: Path) -> NDArray[np.float32]:
    model = FoldedModel(checkpoint.read(volumes.latest(tiny_volume)).model, dtype=torch.float32)
    return read_features(model, [prepare(text) for text in TEXTS])


def test_floats(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    answer = client.post("/featurize", json={"texts": TEXTS}).raise_for_status().json()
    assert answer["pooling"] == "cell"
    np.testing.assert_allclose([result["features"] for result in answer["results"]], expected, atol=1e-5)


def test_base64_is_little_endian_float32(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    answer = client.post("/featurize", json={"texts": TEXTS, "encoding": "base64"}).raise_for_status().json()
    vectors = [np.frombuffer(base64.b64decode(result["features"]), dtype="<f4") for result in answer["results"]]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_npy_by_accept(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    response = client.post("/featurize", json={"texts": TEXTS}, headers={"Accept": "application/x-npy"})
    assert response.headers["content-type"] == "application/x-npy"
    assert response.headers["x-model"] == "tiny/step-1"
    np.testing.assert_allclose(np.load(io.BytesIO(response.content), allow_pickle=False), expected, atol=1e-5)


def test_tanh_pooling(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    answer = client.post("/featurize", json={"texts": TEXTS, "pooling": "tanh"}).raise_for_status().json()
    np.testing.assert_allclose([result["features"] for result in answer["results"]], np.tanh(expected), atol=1e-5)
    assert answer["pooling"] == "tanh"


def test_mean_pooling(client: httpx.Client, tiny_volume: Path) -> None:
    model = checkpoint.read(volumes.latest(tiny_volume)).model
    answer = client.post("/featurize", json={"texts": TEXTS, "pooling": "mean"}).raise_for_status().json()
    means = [mean_hidden(model, prepare(text)) for text in TEXTS]
    np.testing.assert_allclose([result["features"] for result in answer["results"]], means, atol=1e-5)
    assert answer["pooling"] == "mean"


def test_a_job_gives_npy_too(client: httpx.Client, expected: NDArray[np.float32]) -> None:
    accepted = client.post("/featurize", json={"texts": TEXTS}, headers={"Prefer": "respond-async"})
    where = accepted.headers["location"]
    with client.stream("GET", where + "/events") as events:
        assert any(line == "event: done" for line in events.iter_lines())
    response = client.get(where, headers={"Accept": "application/x-npy"})
    np.testing.assert_allclose(np.load(io.BytesIO(response.content), allow_pickle=False), expected, atol=1e-5)


def test_a_result_that_is_too_long_for_the_mailbox_arrives(client: httpx.Client) -> None:
    texts = [f"Film {number}." for number in range(400)]  # 400 x 48 float32 are 100 kB of base64
    body = client.post("/featurize", json={"texts": texts, "encoding": "base64"}).raise_for_status().json()
    (last,) = client.post("/featurize", json={"text": texts[-1], "encoding": "base64"}).json()["results"]
    assert len(body["results"]) == 400
    assert body["results"][-1] == last

"""POST /trace: a value for every byte of the prepared text, and the characters it belongs to."""

from pathlib import Path

import httpx
import pytest
import torch

from model.checkpoints import checkpoint, volumes
from model.network.cells import State, step
from tests.conftest import SENTIMENT_UNIT
from texts.preparation import prepare

TEXT = " Fish &amp; chips,\n 中 good "


def test_every_byte_with_its_characters_and_values(client: httpx.Client, tiny_volume: Path) -> None:
    answer = client.post("/trace", json={"text": TEXT, "units": [SENTIMENT_UNIT, 0]}).raise_for_status().json()
    prepared = prepare(TEXT)
    assert answer["units"] == [SENTIMENT_UNIT, 0]
    assert bytes(item["byte"] for item in answer["bytes"]) == prepared

    model = checkpoint.read(volumes.latest(tiny_volume)).model
    with torch.no_grad():
        weights, state = model.cell.weights(model.embedding), State(torch.zeros(1, 48), torch.zeros(1, 48))
        for item in answer["bytes"]:
            state = step("mlstm", weights, torch.tensor([item["byte"]]), state)
            assert item["values"] == pytest.approx(state.cell[0, [SENTIMENT_UNIT, 0]].tolist(), abs=1e-5)
            sentiment = -(float(state.cell[0, SENTIMENT_UNIT]) - 0.1) / 0.5
            assert item["sentiment"] == pytest.approx(max(-1.0, min(1.0, sentiment)), abs=1e-4)

    for item in answer["bytes"]:
        assert item["text"] == TEXT[item["start"] : item["end"]]
    seen = {(item["start"], item["end"]): item["text"] for item in answer["bytes"] if item["text"]}
    assert "".join(seen.values()) == TEXT.strip()
    assert [item["text"] for item in answer["bytes"] if item["byte"] == ord("&")] == ["&amp;"]
    assert [item["text"] for item in answer["bytes"]].count("中") == 3


def test_the_sentiment_unit_by_default(client: httpx.Client) -> None:
    answer = client.post("/trace", json={"text": "Good."}).raise_for_status().json()
    assert answer["units"] == [SENTIMENT_UNIT]
    assert len(answer["bytes"]) == len(prepare("Good."))


def test_a_unit_that_does_not_exist(client: httpx.Client) -> None:
    response = client.post("/trace", json={"text": "Good.", "units": [48]})
    assert response.status_code == 404
    assert response.json()["type"].endswith(":unknown-unit")
    assert "0 to 47" in response.json()["detail"]

"""POST /trace: a value for every byte of the prepared text, and the characters it belongs to."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import torch

from model.checkpoints import checkpoint, volumes
from model.network.cells import State, step
from tests.conftest import SENTIMENT_UNIT, wait_until
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


@pytest.mark.parametrize("offsets", ["characters", "utf-16"])
def test_a_text_that_is_typed_is_answered_from_what_is_new(client: httpx.Client, offsets: str) -> None:
    asked = {"offsets": offsets, "head": "sentiment"}
    text = "Fish & chips, 中 \U0001f600 good"
    whole = client.post("/trace", json=asked | {"text": text}).raise_for_status().json()
    known: list[dict[str, Any]] = []
    for end in range(1, len(text) + 1):
        # White space is read when something follows it, so where the text was last read to is not its former end.
        body = asked | {"text": text[:end], "start": known[-1]["end"] if known else 0}
        fresh = client.post("/trace", json=body).raise_for_status().json()["bytes"]
        assert fresh[0]["start"] >= body["start"]
        if known:
            assert len(fresh) <= len(text[end - 2 : end].encode()) + 1  # a space, what is new, and a space at the end
        known = [step for step in known if step["end"] <= fresh[0]["start"] and step["text"]]
        known += [step for step in fresh if step["text"]]
    expected = [step for step in whole["bytes"] if step["text"]]
    for one, other in zip(known, expected, strict=True):
        for name, tolerance in (("values", 1e-5), ("probabilities", 1e-4)):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=tolerance)
        assert one.pop("sentiment") == pytest.approx(other.pop("sentiment"), abs=1e-4)
        assert one == other


def test_a_head_in_a_trace(client: httpx.Client) -> None:
    traced = client.post("/trace", json={"text": TEXT, "head": "length"}).raise_for_status().json()
    said = client.post("/classify", json={"text": TEXT, "head": "length"}).raise_for_status().json()["results"][0]
    assert (traced["head"], traced["labels"]) == ("length", ["short", "medium", "long"])
    last = dict(zip(traced["labels"], traced["bytes"][-1]["probabilities"], strict=True))
    assert last == pytest.approx(said["probabilities"], abs=1e-5)
    unknown = client.post("/trace", json={"text": TEXT, "head": "other"})
    assert (unknown.status_code, unknown.json()["type"].rpartition(":")[2]) == (404, "unknown-head")


def test_a_trace_as_a_picture(client: httpx.Client) -> None:
    text = "<b>&amp; \U0001f600 \u4e2d\x1b</b> fine, and so on"
    body = {"text": text, "units": [3, SENTIMENT_UNIT], "offsets": "utf-16"}
    answer = client.post("/trace", json=body, headers={"Accept": "image/svg+xml"}).raise_for_status()
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["x-model"].startswith("tiny/step-")
    root = ElementTree.fromstring(answer.text)
    texts = root.iter("{http://www.w3.org/2000/svg}text")
    glyphs = "".join(one.text or "" for one in texts if one.get("fill") == "#111")
    drawn = text.replace("\x1b", "␛").replace(" ", "")
    assert glyphs == drawn * 2
    refused = client.post("/trace", json=body | {"units": [99]}, headers={"Accept": "image/svg+xml"})
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/svg+xml, */*;q=0.8", "image/svg+xml"),
        ("application/json, image/svg+xml;q=0.5", "application/json"),
        ("image/svg+xml;q=0, */*", "application/json"),
        ("image/svg+xml;q=0.1, */*", "application/json"),
        ("image/svg+xml;q=0.1, application/*;q=0.9", "application/json"),
        ("image/svg+xml;q=1.9", "application/json"),
        ("image/svg+xml;q=high", "application/json"),
        ("image/*", "application/json"),
        ("IMAGE/SVG+XML; q=0.5, application/json; q=0.5", "image/svg+xml"),
    ],
)
def test_the_form_that_the_client_likes_best(client: httpx.Client, accept: str, kind: str) -> None:
    answer = client.post("/trace", json={"text": "Good."}, headers={"Accept": accept}).raise_for_status()
    assert answer.headers["content-type"] == kind


def test_a_picture_is_bounded_before_it_is_queued(client: httpx.Client) -> None:
    body = {"text": "a" * 2000, "units": list(range(48))}
    refused = client.post("/trace", json=body, headers={"Accept": "image/svg+xml"})
    assert refused.status_code == 413
    assert "bytes of the text by units to draw: 96,000 is over the limit of 65,536" in refused.json()["detail"]
    assert "NEURON_API_MAX_TRACE_BYTES" in refused.json()["detail"]
    assert client.post("/trace", json=body).status_code == 200


def test_a_picture_that_is_fetched_later_is_json(client: httpx.Client) -> None:
    headers = {"Accept": "image/svg+xml", "Prefer": "respond-async"}
    accepted = client.post("/trace", json={"text": "Good."}, headers=headers)
    assert accepted.status_code == 202
    where = accepted.headers["location"]
    wait_until(lambda: client.get(where).json()["state"] == "done")
    assert len(client.get(where).json()["result"]["bytes"]) == len(prepare("Good."))


def test_a_unit_that_does_not_exist(client: httpx.Client) -> None:
    response = client.post("/trace", json={"text": "Good.", "units": [48]})
    assert response.status_code == 404
    assert response.json()["type"].endswith(":unknown-unit")
    assert "0 to 47" in response.json()["detail"]

"""Traces as JSON, whole or of what is new, on a real engine."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.jobs import MAX_TRACED_UNITS, ClassifyJob, Offsets, TraceJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.plans import JobFailed, plan
from engine.rows import Row
from engine.serving import ServedModel
from engine.traces import Places, trace_json
from model.heads.classifier import Head
from model.heads.unit import Calibration
from tests.conftest import publish_tiny
from texts.preparation import prepare


def test_a_trace_says_of_every_byte_where_it_comes_from_and_what_the_units_are_after_it() -> None:
    text = "né"
    values = np.arange(2 * len(prepare(text)), dtype=np.float32).reshape(-1, 2)
    calibration = Calibration(unit=7, polarity=1, center=0.0, scale=8.0)
    trace = trace_json(Places(text), values, [3, 7], calibration)
    assert trace["units"] == [3, 7]
    assert bytes(step["byte"] for step in trace["bytes"]) == prepare(text)
    assert [step["text"] for step in trace["bytes"] if step["text"]] == ["n", "é", "é"]
    assert [step["values"] for step in trace["bytes"]] == values.tolist()
    assert [step["sentiment"] for step in trace["bytes"]] == [calibration.sentiment(row[1]) for row in values.tolist()]


def test_a_trace_without_the_calibrated_unit_has_no_sentiment() -> None:
    values = np.zeros((len(prepare("a")), 1), dtype=np.float32)
    for calibration in (None, Calibration(unit=7, polarity=1, center=0.0, scale=8.0)):
        assert all("sentiment" not in step for step in trace_json(Places("a"), values, [3], calibration)["bytes"])


def test_a_trace_of_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        trace_json(Places("longer than that"), np.zeros((2, 1), dtype=np.float32), [3], None)


@pytest.mark.parametrize(
    ("text", "start", "offsets", "rest"),
    [
        ("abc", 0, "characters", b"\n abc "),
        ("abc", 1, "characters", b"bc "),
        ("abc", 3, "characters", b" "),
        ("abc", 99, "characters", b" "),
        ("  abc", 1, "characters", b"\n abc "),  # white space at the ends is not read
        ("abc  ", 4, "characters", b" "),
        ("", 0, "characters", b"\n  "),
        ("", 1, "characters", b" "),
        ("a&amp;b", 3, "characters", b"&b "),  # in the middle of what is one character
        ("\U0001f642ab", 1, "characters", b"ab "),
        ("\U0001f642ab", 1, "utf-16", "\U0001f642ab ".encode()),
        ("\U0001f642ab", 2, "utf-16", b"ab "),
    ],
)
def test_what_is_new_begins_with_a_whole_character(text: str, start: int, offsets: Offsets, rest: bytes) -> None:
    assert prepare(text)[Places(text, offsets).first_byte(start) :] == rest


@pytest.fixture
def served(tmp_path: Path) -> ServedModel:
    return serving.load(publish_tiny(tmp_path, 1), "cpu", "float32", 16)


def job(text: str, start: int | None = None, head: str | None = None) -> TraceJob:
    return TraceJob(id="a-job-of-the-test", timeout_s=60, text=text, units=[3], start=start, head=head)


def test_what_is_new_of_a_text_is_the_end_of_its_whole_trace(served: ServedModel, engine: Engine) -> None:
    text = "It was great at first. Then it broke."
    whole = execute(job(text), served, engine)
    for typed in range(1, len(text)):
        new = execute(job(text[: typed + 1], start=typed), served, engine)
        assert len(new["bytes"]) == (2 if not text[typed].isspace() else 1)
        for one in new["bytes"][:-1]:
            (same,) = [other for other in whole["bytes"] if other["start"] == typed < other["end"]]
            assert one == same | {"values": pytest.approx(same["values"], abs=1e-5)}


def test_a_head_says_of_every_byte_what_it_would_say_of_the_text_so_far(served: ServedModel, engine: Engine) -> None:
    text = "Great. Then not"
    for pooling in ("cell", "tanh"):
        head = replace(served.manifest.heads["length"], pooling=pooling)
        model = replace(served, manifest=replace(served.manifest, heads={"length": head}))
        traced = execute(job(text, head="length"), model, engine)
        texts = [text[:end] for end in range(1, len(text) + 1) if not text[:end].endswith(" ")]
        asked = ClassifyJob(id="a-job-of-the-test", timeout_s=60, texts=texts, head="length")
        alone = execute(asked, model, engine)["results"]
        assert (traced["head"], traced["labels"]) == ("length", head.labels)
        by_text = {text: list(one["probabilities"].values()) for text, one in zip(texts, alone, strict=True)}
        assert traced["bytes"][-1]["probabilities"] == pytest.approx(by_text[text], abs=1e-5)
        for step in traced["bytes"]:
            # A word that a space follows is read as a text that ends there.
            if step["text"] == " " and text[: step["start"]] in by_text:
                assert step["probabilities"] == pytest.approx(by_text[text[: step["start"]]], abs=1e-5)


def test_of_a_head_only_its_log_odds_are_kept(served: ServedModel) -> None:
    head = replace(served.manifest.heads["length"], weights={unit: [0.1, 0.2, 0.3] for unit in range(40)})
    model = replace(served, manifest=replace(served.manifest, heads={"length": head}))
    (request,) = plan(job("abc", start=1, head="length"), model).requests
    row = Row(request, threading.Event())
    block = np.random.default_rng(1).normal(size=(16, len(request.traced) + 8)).astype(np.float32)
    for read in (2, 2, 2):  # 6 bytes: "\n abc "; those from the third on are wanted
        row.read += read
        row.take_trace(block[:read, : len(request.traced)])
    trace = row.result(np.zeros(48, np.float32), None, 0.0).trace
    assert trace.shape == (3, 1 + 3)
    assert all(part.base is None for part in row._traces)  # a view would keep the whole block


def test_a_head_of_more_labels_than_a_trace_may_show_has_none(served: ServedModel, engine: Engine) -> None:
    labels = [str(number) for number in range(MAX_TRACED_UNITS + 1)]
    head = Head(labels, {0: [0.0] * len(labels)}, [0.0] * len(labels))
    model = replace(served, manifest=replace(served.manifest, heads={"many": head}))
    with pytest.raises(JobFailed, match="'many' has 65 labels: more than the 64 that a trace may show"):
        execute(job("a", head="many"), model, engine)


def test_a_head_of_the_mean_has_no_trace(served: ServedModel, engine: Engine) -> None:
    head = replace(served.manifest.heads["length"], pooling="mean")
    model = replace(served, manifest=replace(served.manifest, heads={"length": head}))
    with pytest.raises(JobFailed, match="'length' reads the mean of the hidden vector"):
        execute(job("a", head="length"), model, engine)
    with pytest.raises(JobFailed, match="no head 'other'"):
        execute(job("a", head="other"), model, engine)

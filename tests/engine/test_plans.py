import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.jobs import ClassifyJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.plans import rank_by_sentiment, trace_json
from model.checkpoints.checkpoint import MANIFEST
from model.heads.familiarity import Familiarity
from model.heads.unit import Calibration
from tests.conftest import publish_tiny
from texts.preparation import prepare


def test_the_sample_nearest_to_the_asked_sentiment_comes_first_and_of_equals_the_likelier() -> None:
    positive, likelihoods = [0.2, 0.9, 0.5, 0.9], [-1.0, -3.0, -2.0, -1.5]
    assert rank_by_sentiment(positive, likelihoods, 1.0) == [3, 1, 2, 0]
    assert rank_by_sentiment(positive, likelihoods, 0.0) == [2, 0, 3, 1]
    assert rank_by_sentiment(positive, likelihoods, -1.0) == [0, 2, 3, 1]


def test_a_trace_says_of_every_byte_where_it_comes_from_and_what_the_units_are_after_it() -> None:
    text = "né"
    values = np.arange(2 * len(prepare(text)), dtype=np.float32).reshape(-1, 2)
    calibration = Calibration(unit=7, polarity=1, center=0.0, scale=8.0)
    trace = trace_json(text, values, [3, 7], calibration)
    assert trace["units"] == [3, 7]
    assert bytes(step["byte"] for step in trace["bytes"]) == prepare(text)
    assert [step["text"] for step in trace["bytes"] if step["text"]] == ["n", "é", "é"]
    assert [step["values"] for step in trace["bytes"]] == values.tolist()
    assert [step["sentiment"] for step in trace["bytes"]] == [calibration.sentiment(row[1]) for row in values.tolist()]


def test_a_trace_without_the_calibrated_unit_has_no_sentiment() -> None:
    values = np.zeros((len(prepare("a")), 1), dtype=np.float32)
    for calibration in (None, Calibration(unit=7, polarity=1, center=0.0, scale=8.0)):
        assert all("sentiment" not in step for step in trace_json("a", values, [3], calibration)["bytes"])


def test_a_trace_of_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        trace_json("longer than that", np.zeros((2, 1), dtype=np.float32), [3], None)


@pytest.mark.parametrize(
    ("labels", "numbers"), [(["1", "2.5", "-3"], [1.0, 2.5, -3.0]), (["1", "2", "many"], None), (["1", "2", "٣"], None)]
)
def test_labels_that_are_numbers_have_an_expected_value(
    labels: list[str], numbers: list[float] | None, engine: Engine, tmp_path: Path
) -> None:
    loaded = serving.load(publish_tiny(tmp_path, 1), "cpu", "float32", 16)
    head = replace(loaded.manifest.heads["length"], labels=labels)
    served = replace(loaded, manifest=replace(loaded.manifest, heads={"stars": head}))
    job = ClassifyJob(id="a-job-of-the-test", timeout_s=60, texts=["One text.", "Another"], head="stars")
    for result in execute(job, served, engine)["results"]:
        probabilities = [result["probabilities"][label] for label in labels]
        assert result["score"] == max(probabilities)
        assert result["margin"] == pytest.approx(max(probabilities) - sorted(probabilities)[1])
        if numbers is None:
            assert result["expected_value"] is None
        else:
            assert result["expected_value"] == pytest.approx(np.dot(probabilities, numbers))


def test_a_text_that_is_unlike_the_models_own_has_a_warning(engine: Engine, tmp_path: Path) -> None:
    loaded = serving.load(publish_tiny(tmp_path, 1), "cpu", "float32", 16)
    texts = ["Hi.", "A text of some thirty-four bytes.", "A text of some thirty-four bytes!!"]
    job = ClassifyJob(id="a-job-of-the-test", timeout_s=60, texts=texts, head="sentiment")
    unknown = execute(job, loaded, engine)["results"]
    assert [(result["bits_per_byte"], result["warning"]) for result in unknown] == [(None, None)] * 3
    measured = []
    for limit in (0.0, 100.0):
        familiarity = Familiarity([16], [limit], 0.99, [1000], "")
        served = replace(loaded, manifest=replace(loaded.manifest, familiarity=familiarity))
        results = execute(job, served, engine)["results"]
        measured.append([result["bits_per_byte"] for result in results])
        warned = [result["warning"] is not None for result in results]
        assert warned == ([False, True, True] if limit == 0.0 else [False] * 3)  # the first is too short to say
        if limit == 0.0:
            bits = results[1]["bits_per_byte"]
            assert (
                f"{bits:.2f} bits per byte, where 99% of texts of this length take less than 0.00"
                in (results[1]["warning"])
            )
    assert measured[0] == pytest.approx(measured[1])
    assert all(bits > 0 for bits in measured[0])


def test_scores_may_be_left_out(engine: Engine, tmp_path: Path) -> None:
    directory = publish_tiny(tmp_path, 1)
    manifest = directory / MANIFEST
    limits = {"lengths": [16], "bits": [0.0], "share": 0.99, "texts": [900], "data": ""}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"familiarity": limits}))
    job = ClassifyJob(
        id="a-job-of-the-test", timeout_s=60, texts=["A text of some thirty-four bytes."], head="sentiment"
    )
    found = []
    for scores in (True, False):
        (result,) = execute(job, serving.load(directory, "cpu", "float32", 16, scores), engine)["results"]
        found.append(result)
    assert found[0]["bits_per_byte"] > 0
    assert found[0]["warning"] is not None
    assert found[1] == found[0] | {"bits_per_byte": None, "warning": None}

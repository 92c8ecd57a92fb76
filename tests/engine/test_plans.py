import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.jobs import ClassifyJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.plans import rank_by_sentiment
from model.checkpoints.checkpoint import MANIFEST
from model.heads.familiarity import Familiarity
from tests.conftest import publish_tiny


def test_the_sample_nearest_to_the_asked_sentiment_comes_first_and_of_equals_the_likelier() -> None:
    positive, likelihoods = [0.2, 0.9, 0.5, 0.9], [-1.0, -3.0, -2.0, -1.5]
    assert rank_by_sentiment(positive, likelihoods, 1.0) == [3, 1, 2, 0]
    assert rank_by_sentiment(positive, likelihoods, 0.0) == [2, 0, 3, 1]
    assert rank_by_sentiment(positive, likelihoods, -1.0) == [0, 2, 3, 1]


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

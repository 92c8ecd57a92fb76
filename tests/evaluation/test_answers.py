"""Answers as they are served: accuracy, agreement and calibration of head and unit, in other forms and by source."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import answers
from evaluation.answers import Questions, evaluate, tfidf, tokenised
from evaluation.features import EvaluationError, Reader
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import SENTIMENT_LABELS, Head
from model.heads.unit import Calibration
from tests.support.carrier import UNIT, carrier, flipped, labelled
from texts.labelled import Labelled

SURE = 1 / (1 + np.exp(-2.0))  # of a head of weight 2 on a unit that goes to 1 and -1, nearly


def reader_of(directory: Path, head: Head, polarity: int = 1) -> Reader:
    model = carrier()
    manifest = Manifest(
        "carrier", 3, model.architecture, 1000, 2.5, {}, Calibration(UNIT, polarity, 0.0, 1.0), {"sentiment": head}
    )
    return Reader(
        volumes.publish(directory / "volume", model, manifest, torch.float32), directory / "cache", dtype=torch.float32
    )


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return reader_of(tmp_path, Head(SENTIMENT_LABELS, {UNIT: [2.0]}, [0.0]))


def test_a_head_and_a_unit_that_are_always_right(reader: Reader) -> None:
    report = evaluate(reader, [Questions("marks", labelled(60, 1)), Questions("all wrong", flipped(labelled(30, 2)))])
    right, wrong = report.values["sets"]
    for key in ("accuracy_head", "accuracy_unit", "agreement", "lower_cased", "tokenised"):
        assert right[key] == 1.0, key
    assert right["calibration_error"] == pytest.approx(1 - SURE, abs=0.01)
    assert (right["texts"], right["accuracy_tfidf"], right["by_source"], right["wrong"]) == (60, None, [], [])
    assert (wrong["accuracy_head"], wrong["accuracy_unit"], wrong["agreement"]) == (0.0, 0.0, 1.0)
    assert wrong["calibration_error"] == pytest.approx(SURE, abs=0.01)
    assert wrong["wrong"] == labelled(30, 2).texts
    (table,) = report.tables
    assert table.rows[0] == ["marks", "60", "100.0 %", "100.0 %", "100.0 %", "0.124", "0.0", "0.0", "-"]
    assert report.notes[0].startswith("Answered wrong in all wrong:\n\n- text ")


def test_head_and_unit_are_judged_by_themselves(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, Head(SENTIMENT_LABELS, {}, [1.0]), polarity=-1)
    texts = labelled(60, 1)
    positive = texts.labels.count("1") / 60
    (found,) = evaluate(reader, [Questions("marks", texts)]).values["sets"]
    assert found["accuracy_head"] == positive  # it calls all positive
    assert found["accuracy_unit"] == 0.0  # it falls with what is positive
    assert found["agreement"] == 1 - positive


def test_by_source_both_labels_weigh_the_same(reader: Reader) -> None:
    one, other = labelled(60, 1), flipped(labelled(40, 2))
    few = labelled(12, 3)
    texts = Labelled(one.texts + other.texts + few.texts, one.labels + other.labels + few.labels)
    questions = Questions("reviews", texts, ["films"] * 60 + ["books"] * 40 + ["rare"] * 12)
    baseline = tfidf(reader, one, labelled(30, 5))
    report = evaluate(reader, [questions], baseline)
    (found,) = report.values["sets"]
    assert [(row["source"], row["accuracy_head"], row["accuracy_unit"]) for row in found["by_source"]] == [
        ("books", 0.0, 0.0),
        ("films", 1.0, 1.0),
    ]
    predicted = baseline.predict(one.texts)
    labels = np.array(one.binary())
    by_hand = np.mean([(predicted[labels == label] == label).mean() for label in (0, 1)])
    assert found["by_source"][1]["accuracy_tfidf"] == pytest.approx(by_hand)
    assert found["accuracy_tfidf"] == pytest.approx((baseline.predict(texts.texts) == np.array(texts.binary())).mean())
    assert report.tables[1].rows[-1][:4] == ["mean of sources", "100", "50.0 %", "50.0 %"]


def test_what_lower_case_and_tokens_cost(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by forms that turn marks around: the first by all of them, the second by those of one label."""
    texts = Labelled(["A +", "B -"] * 5, ["1", "0"] * 5)
    monkeypatch.setattr(
        answers,
        "_FORMS",
        {
            "lower_cased": lambda text: text.translate({43: 45, 45: 43}),
            "tokenised": lambda text: text.replace("+", "-"),
        },
    )
    report = evaluate(reader, [Questions("texts", texts)])
    (found,) = report.values["sets"]
    assert (found["accuracy_as_they_are"], found["lower_cased"], found["tokenised"]) == (1.0, 0.0, 0.5)
    assert report.tables[0].rows[0][6:8] == ["100.0", "50.0"]


def test_tokens() -> None:
    assert tokenised("It isn't GOOD (at all)!") == "it isn't good ( at all ) !"


def test_without_that_head(tmp_path: Path) -> None:
    for head in (Head(["no", "yes"], {}, [0.0]), Head(["a", "b", "c"], {}, [0.0] * 3)):
        with pytest.raises(EvaluationError, match="carrier/step-3 has no head 'sentiment' of"):
            evaluate(reader_of(tmp_path / head.labels[0], head), [Questions("marks", labelled(4, 1))])

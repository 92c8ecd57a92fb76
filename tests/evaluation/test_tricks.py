"""Optimizers and tricks compared: each at its best rate, each trick alone, and what diverges is said to."""

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import tricks
from evaluation.features import EvaluationError, Progress
from recurrent.optimizers import DEFAULTS
from recurrent.options import Options
from tests.recurrent.reviews import LABELS, TEXTS
from tests.support.carrier import assert_pictures
from texts.labelled import Labelled

pytestmark = pytest.mark.usefixtures("two_processes")

OPTIONS = Options(embedding=4, units=4, batch_size=16, epochs=2, min_df=1)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tricks, "_PROCESSES", 2)  # other tests run beside, on all cores


def test_every_optimizer_and_every_trick_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tricks, "RATES", (1.0, 1e28))
    counted: list[int] = []
    texts = Labelled(TEXTS, ["1" if label == "good" else "0" for label in LABELS])
    report = tricks.evaluate(Progress(advance=counted.append), texts, OPTIONS)
    values = report.values
    assert sum(counted) == 7 * 2 + 2 * len(tricks.TRICKS)
    assert len(values["tried"]) == 14
    fitted = values["tricks"] + values["of_last"]
    assert [one["trick"] for one in fitted] == [*tricks.TRICKS] * 2
    assert all(len(one["held_out"]) == 2 for one in fitted)
    assert len({one["held_out"][-1] for one in fitted}) > 9  # they are different networks
    rates = {row[0]: row[1] for row in report.tables[0].rows}
    assert rates["adam"] == DEFAULTS["adam"]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["optimizers", "tricks", "tricks_of_last"])


def test_what_diverges_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tricks, "RATES", (1e28,))
    texts = Labelled(TEXTS, ["1" if label == "good" else "0" for label in LABELS])
    report = tricks.evaluate(Progress(), texts, Options(embedding=4, units=4, epochs=2, min_df=1, clip=None))
    assert "diverged" in {row[2] for row in report.tables[0].rows}


def test_what_cannot_be_compared_says_why() -> None:
    with pytest.raises(EvaluationError, match="all 60 texts have one label"):
        tricks.evaluate(Progress(), Labelled(TEXTS, ["1"] * len(TEXTS)), OPTIONS)
    texts = Labelled(TEXTS, ["1" if label == "good" else "0" for label in LABELS])
    with pytest.raises(EvaluationError, match="no word is in min_df=100"):
        tricks.evaluate(Progress(), texts, replace(OPTIONS, min_df=100))
    few = Labelled(["so good", "so bad", "good", "bad"], ["1", "0", "1", "0"])
    with pytest.raises(EvaluationError, match="4 texts are too few to hold some of each label out"):
        tricks.evaluate(Progress(), few, replace(OPTIONS, min_df=1))

from dataclasses import replace
from pathlib import Path

from evaluation import lengths
from evaluation.features import Reader
from tests.support.carrier import assert_pictures, flipped, labelled, sets
from texts.labelled import Labelled


def test_lengths_tell_that_long_texts_go_wrong(reader: Reader, tmp_path: Path) -> None:
    short, long = labelled(30, 11), labelled(30, 12)
    wrong = Labelled([text + " and on" * 20 for text in long.texts], flipped(long).labels)
    test = Labelled(short.texts + wrong.texts, short.labels + wrong.labels)
    report = lengths.evaluate(reader, replace(sets(), test=test), folds=5)
    values = report.values
    assert values["accuracy_all"] == 0.5
    assert values["lengths"]["right"]["p90"] < values["lengths"]["wrong"]["p10"]
    assert values["lengths"]["all"]["texts"] == 60
    assert [values["by_length"][end]["accuracy"] for end in (0, -1)] == [1.0, 0.0]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["lengths"])

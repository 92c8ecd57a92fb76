"""The evaluation on a model whose unit 5 carries a mark in the text, so that every right answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import matplotlib.image
import numpy as np
import pytest
import torch

from engine.folded import FoldedModel
from engine.reading import read_features, read_texts
from evaluation import (
    baseline,
    classify,
    curve,
    features,
    generation,
    growth,
    heatmap,
    histogram,
    lengths,
    pairs,
    shifts,
    units,
)
from evaluation.features import EvaluationError, Reader
from evaluation.report import Report, Table
from evaluation.rows import run_rows
from evaluation.sets import IMDB, SST, Sets, find_sets, read_sets
from evaluation.traces import read_traces
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from model.heads.classifier import C_GRID, Head
from model.heads.pooling import Pooling
from model.heads.unit import Calibration
from model.network.language_model import Architecture, LanguageModel
from model.texts.labelled import Labelled, LabelledError
from model.texts.preparation import prepare
from tests.conftest import write_packed

UNITS, UNIT = 12, 5


def carrier(seed: int = 0) -> LanguageModel:
    """Unit 5 goes to 1 at a "+", to -1 at a "-", and stays there; held, it writes g above zero and b below."""
    model = LanguageModel(Architecture("mlstm", UNITS, 8))
    model.reset(torch.Generator().manual_seed(seed), embedding_std=1.0)
    cell = model.cell
    with torch.no_grad():
        model.embedding[:, 0] = 0.0
        model.embedding[ord("+"), 0], model.embedding[ord("-"), 0] = 1.0, -1.0
        for gate, (gain, bias) in enumerate([(0.0, 7.0), (0.0, 7.0), (0.0, 7.0), (4.0, 0.0)]):  # i, f, o, u
            column = gate * UNITS + UNIT
            cell.wx[:, column] = 0.0
            cell.wx[0, column] = 1.0
            cell.gx[column], cell.gh[column], cell.b[column] = gain, 0.0, bias
        model.output_w.zero_()
        model.output_w[UNIT, ord("g")], model.output_w[UNIT, ord("b")] = 20.0, -20.0
        model.output_b.fill_(-50.0)
        model.output_b[ord(" ")] = 14.0
        model.output_b[[ord("g"), ord("b")]] = 0.0
    return model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = carrier()
    manifest = Manifest("carrier", 3, model.architecture, 1000, 2.5, {}, Calibration(UNIT, 1, 0.0, 1.0))
    return volumes.publish(tmp_path_factory.mktemp("volume"), model, manifest, torch.float32)


@pytest.fixture(scope="module")
def reader(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(directory, tmp_path_factory.mktemp("cache"), dtype=torch.float32)


def labelled(rows: int, seed: int, marks: str = "-+", noise: float = 0.0) -> Labelled:
    """Texts with a mark; the label is which, but for a share `noise` of them."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, len(marks), rows)
    texts = [f"text {draw.integers(1000, 9999)} {marks[c]} says nothing {draw.integers(10**9)}" for c in classes]
    wrong = draw.random(rows) < noise
    return Labelled(texts, [str((c + w) % len(marks)) for c, w in zip(classes, wrong, strict=True)])


def sets(noise: float = 0.0, valid: bool = True, marks: str = "-+") -> Sets:
    return Sets(
        labelled(120, 1, marks, noise), labelled(60, 2, marks, noise) if valid else None, labelled(60, 3, marks, noise)
    )


def flipped(part: Labelled) -> Labelled:
    return Labelled(part.texts, ["1" if label == "0" else "0" for label in part.labels])


# features


def test_the_mark_is_what_the_unit_holds(reader: Reader) -> None:
    found = reader.features(["a + b", "a - b", "a b"])[:, UNIT]
    assert found == pytest.approx([1.0, -1.0, 0.0], abs=0.02)


def test_features_are_those_of_reading(reader: Reader) -> None:
    texts = labelled(20, 4).texts
    expected = read_features(reader.model, [prepare(text) for text in texts])
    assert np.array_equal(reader.features(texts), expected)


def test_what_was_read_once_is_not_read_again(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 8)
    texts = labelled(20, 5).texts
    before = Reader(directory, tmp_path).features(texts)
    read: list[int] = []
    real = read_texts

    def counted(model: Any, chunk: list[bytes], *rest: Any, **options: Any) -> Any:
        read.append(len(chunk))
        return real(model, chunk, *rest, **options)

    monkeypatch.setattr(features, "read_texts", counted)
    advanced: list[int] = []
    progress = features.Progress(advance=advanced.append)
    assert np.array_equal(Reader(directory, tmp_path, progress=progress).features(texts), before)
    assert read == []
    assert sum(advanced) == len(texts)
    Reader(directory, tmp_path).features([*texts[:8], "another", *texts[9:]])
    assert read == [8]  # the chunk with another text, and no other


def test_an_interrupted_reading_goes_on(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 8)
    texts, real, read = labelled(20, 6).texts, read_texts, 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal read
        read += 1
        if read == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(features, "read_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Reader(directory, tmp_path).features(texts)
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert [Path(name).suffix for name in kept] == [".npy"]
    Reader(directory, tmp_path).features(texts)
    assert read == 4  # the first chunk once


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"not an array", None])
def test_a_damaged_file_is_read_anew(directory: Path, tmp_path: Path, damage: bytes | None) -> None:
    texts = labelled(5, 7).texts
    before = Reader(directory, tmp_path).features(texts)
    (file,) = tmp_path.rglob("*.npy")
    if damage is None:
        np.save(file, np.zeros((2, 5, UNITS + 1), dtype=np.float32))
    else:
        file.write_bytes(damage)
    assert np.array_equal(Reader(directory, tmp_path).features(texts), before)
    assert np.array_equal(np.load(file, allow_pickle=False)[0], before)


def test_a_checkpoint_has_files_of_its_own_for_all_poolings(directory: Path, tmp_path: Path) -> None:
    other = carrier(seed=1)
    manifest = Manifest("other", 3, other.architecture, 1000, 2.5, {}, Calibration(UNIT, 1, 0.0, 1.0))
    published = volumes.publish(tmp_path / "volume", other, manifest, torch.float32)
    texts, cache = labelled(5, 8).texts, tmp_path / "cache"
    cell = Reader(directory, cache).features(texts)
    assert np.allclose(Reader(directory, cache, "tanh").features(texts), np.tanh(cell))
    assert not np.array_equal(Reader(published, cache).features(texts), cell)
    mean = Reader(directory, cache, "mean")
    assert np.array_equal(mean.features(texts), read_features(mean.model, list(map(prepare, texts)), "mean"))
    assert len(list(cache.rglob("*.npy"))) == 2


# sets


def test_labels_are_in_the_order_of_numbers_or_names() -> None:
    def of(*labels: str) -> list[str]:
        part = Labelled(list(labels), list(labels))
        return Sets(part, None, part).labels

    assert of("10", "9", "2") == ["2", "9", "10"]
    assert of("pos", "neg") == ["neg", "pos"]


def test_sets_that_will_not_do() -> None:
    good = labelled(20, 0)
    with pytest.raises(LabelledError, match="all rows have the label '1'"):
        Sets(Labelled(["a", "b"], ["1", "1"]), None, good)
    with pytest.raises(LabelledError, match=r"test: labels \['2'\] are not among the training part's"):
        Sets(good, None, Labelled(["a"], ["2"]))
    rare = Labelled([*good.texts, "a"], [*good.labels, "2"])
    with pytest.raises(LabelledError, match="a label has 1 rows"):
        Sets(rare, None, good).splits(5)


def test_splits_hold_the_test_part_out() -> None:
    with_valid, without = sets(), sets(valid=False)
    ((fit, judge),) = with_valid.splits(5)
    assert (fit.tolist(), judge.tolist()) == (list(range(120)), list(range(120, 180)))
    folds = without.splits(5)
    assert sorted(np.concatenate([judge for _, judge in folds]).tolist()) == list(range(120))
    assert all(sorted([*fit, *judge]) == list(range(120)) for fit, judge in folds)
    assert without.splits(2)[1][1].tolist() == folds[1][1].tolist()


@pytest.mark.parametrize(
    ("names", "stems"), [(SST, ["train_binary_sent", "sst_binary_dev", "test"]), (IMDB, ["imdb_train", "imdb_test"])]
)
def test_parts_are_found_by_their_names(tmp_path: Path, names: dict[str, Any], stems: list[str]) -> None:
    for number, stem in enumerate(stems):
        (tmp_path / f"{stem}.csv").write_text(f"label,text\n0,a{number}\n1,b{number}\n")
    found = find_sets(tmp_path, names)
    parts = [found.train, found.valid, found.test] if len(stems) == 3 else [found.train, found.test]
    assert [part.texts[0] for part in parts if part] == [f"a{number}" for number in range(len(stems))]
    (tmp_path / f"{stems[0]}.csv").unlink()
    with pytest.raises(LabelledError, match=r"must hold one of .*; it holds none of them"):
        find_sets(tmp_path, names)


# classify


def test_the_unit_that_carries_the_label_is_seen_by_all_but_the_baseline(reader: Reader, tmp_path: Path) -> None:
    report = classify.evaluate(reader, sets(), folds=5)
    report.write(tmp_path, reader.described())
    values = json.loads((tmp_path / "report.json").read_text())
    for name in ("accuracy_all", "accuracy_unit", "accuracy_unit_no_labels", "accuracy_unit_calibrated"):
        assert values[name] == 1.0, name
    assert values["accuracy_tfidf"] < 0.75  # the mark is no word
    assert values["accuracy_shipped_head"] is None
    assert values["unit"] == UNIT
    assert values["C"] in C_GRID
    assert values["nonzero"] >= 1
    assert values["checkpoint"] == "carrier/step-3"
    assert values["labels"] == ["0", "1"]
    assert values["rows"] == {"train": 120, "valid": 60, "test": 60}
    assert set(values) >= {"protocol", "bits_per_byte", "bytes_seen", "standardized", "threshold", "tfidf", "machine"}
    text = (tmp_path / "report.md").read_text()
    assert "| the one unit, its sign, no labels | 100.0 % |" in text
    assert "![choice](choice.png)" in text
    assert_pictures(tmp_path, ["choice"])


def test_the_mean_is_measured_without_what_is_fitted_to_cells(directory: Path, tmp_path: Path) -> None:
    reader = Reader(directory, tmp_path / "cache", "mean")
    values = classify.evaluate(reader, sets(), folds=5).values
    assert values["accuracy_all"] == values["accuracy_unit"] == 1.0
    assert values["accuracy_unit_calibrated"] is None
    assert reader.described()["pooling"] == "mean"
    (table,) = histogram.evaluate(reader, labelled(20, 4), None).tables
    assert table.caption.startswith("Mean hidden value")


@pytest.mark.parametrize("pooling", ["cell", "mean"])
def test_the_checkpoints_head_is_given_the_features_it_takes(tmp_path: Path, pooling: Pooling) -> None:
    """Whichever are evaluated. Its threshold of 0.9 is between the marks' cells, and above all of their means."""
    model = carrier()
    head = Head(["no", "yes"], {UNIT: [1.0]}, [-0.9], pooling=pooling)
    manifest = Manifest("headed", 3, model.architecture, 1000, 2.5, {}, heads={"sentiment": head})
    headed = volumes.publish(tmp_path / "volume", model, manifest, torch.float32)
    of_the_first_label = sets().test.labels.count("0") / 60
    for asked in get_args(Pooling):
        values = classify.evaluate(Reader(headed, tmp_path / "cache", asked), sets(), folds=5).values
        assert values["accuracy_shipped_head"] == (1.0 if pooling == "cell" else of_the_first_label)


def test_a_unit_is_found_where_the_checkpoint_names_none(reader: Reader, tmp_path: Path) -> None:
    model = carrier()
    bare = Manifest("bare", 1, model.architecture, 1000, None, {})
    own = Reader(volumes.publish(tmp_path / "volume", model, bare, torch.float32), tmp_path / "cache")
    values = classify.evaluate(own, sets(), folds=5).values
    assert (values["unit"], values["accuracy_unit"]) == (UNIT, 1.0)
    assert values["accuracy_unit_no_labels"] is None


def test_three_labels_by_folds(reader: Reader) -> None:
    values = classify.evaluate(reader, sets(valid=False, marks="-+."), folds=2).values
    assert values["accuracy_all"] > 0.9
    assert values["labels"] == ["0", "1", "2"]
    assert values["accuracy_unit"] is None
    assert values["chosen_on"] == "2 of 5 folds of the training part"


def test_the_baseline_reads_words(reader: Reader) -> None:
    def with_words(part: Labelled) -> Labelled:
        said = [
            f"{text} {'lovely' if label == '1' else 'awful'}" for text, label in zip(*vars(part).values(), strict=True)
        ]
        return Labelled(said, part.labels)

    one = sets()
    assert one.valid is not None
    worded = Sets(with_words(one.train), with_words(one.valid), with_words(one.test))
    assert classify.evaluate(reader, worded, folds=5).values["accuracy_tfidf"] == 1.0


# The test part is for measuring alone.

_MEASURED = {"accuracy_all", "accuracy_unit", "accuracy_unit_no_labels", "accuracy_unit_calibrated", "accuracy_tfidf"}


@pytest.mark.parametrize("valid", [True, False])
def test_classify_chooses_nothing_on_the_test_part(reader: Reader, valid: bool) -> None:
    one = sets(noise=0.25, valid=valid)
    values = classify.evaluate(reader, one, folds=3).values
    other = classify.evaluate(reader, replace(one, test=flipped(one.test)), folds=3).values
    assert 0.5 < values["accuracy_all"] < 1.0
    for name in _MEASURED:
        assert other[name] == pytest.approx(1 - values[name]), name
    assert {k: v for k, v in other.items() if k not in _MEASURED} == {
        k: v for k, v in values.items() if k not in _MEASURED
    }


def test_curve_chooses_nothing_on_the_test_part(reader: Reader) -> None:
    one = sets(noise=0.25, valid=False)
    points = curve.evaluate(reader, one, draws=3).values["curve"]
    others = curve.evaluate(reader, replace(one, test=flipped(one.test)), draws=3).values["curve"]
    for point, other in zip(points, others, strict=True):
        assert other["mean"] == pytest.approx(1 - point["mean"])
        assert [other[key] for key in ("examples", "C", "standardized")] == [
            point[key] for key in ("examples", "C", "standardized")
        ]


def test_units_chooses_nothing_on_the_test_part(reader: Reader) -> None:
    one = sets(noise=0.25)
    values = units.evaluate(reader, one, folds=5).values
    other = units.evaluate(reader, replace(one, test=flipped(one.test)), folds=5).values
    for name in ("C", "standardized", "top", "weights", "nonzero"):
        assert other[name] == values[name]
    assert [step["alone"] for step in other["steps"]] == pytest.approx([1 - step["alone"] for step in values["steps"]])


# the other protocols


def test_curve_of_the_unit_begins_high(reader: Reader, tmp_path: Path) -> None:
    report = curve.evaluate(reader, sets(), draws=5)
    values = report.values
    points = {(point["examples"], point["classifier"]): point for point in values["curve"]}
    assert {size for size, _ in points} == {8, 16, 32}
    assert {kind for _, kind in points} == {"l1", "l2", "unit"}
    assert points[8, "unit"]["mean"] == 1.0
    assert points[32, "l1"]["mean"] == 1.0
    assert all(0 <= point["p10"] <= point["p90"] <= 1 for point in values["curve"])
    assert curve.evaluate(reader, sets(), draws=5).values == values
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["curve"])


def test_a_draw_holds_every_class() -> None:
    y = np.array([0] * 99 + [1])
    for seed in range(20):
        drawn = curve._draw(y, np.arange(100), 8, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == 8
        assert set(y[drawn]) == {0, 1}


def test_units_shows_the_spike(reader: Reader, tmp_path: Path) -> None:
    report = units.evaluate(reader, sets(noise=0.1), folds=5)
    values = report.values
    assert values["top"][0]["unit"] == UNIT
    assert values["sentiment_unit_rank"] == 1
    first = values["steps"][0]
    assert first["units"] == 1
    assert first["alone"] > 0.8
    assert first["without"] < 0.75
    assert len(values["weights"][0]) == UNITS
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["weights", "top"])


def test_histogram(reader: Reader, tmp_path: Path) -> None:
    part = labelled(40, 9)
    report = histogram.evaluate(reader, part, None)
    classes = report.values["classes"]
    assert [classes[label]["mean"] for label in ("0", "1")] == pytest.approx([-1.0, 1.0], abs=0.05)
    assert report.values["area_under_roc"] == 1.0
    assert histogram.evaluate(reader, flipped(part), UNIT).values["area_under_roc"] == 0.0
    assert histogram.evaluate(reader, part, 0).values["unit"] == 0
    with pytest.raises(EvaluationError, match="unit 12 does not exist: carrier/step-3 has units 0 to 11"):
        histogram.evaluate(reader, part, UNITS)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["histogram"])


def test_area_counts_pairs() -> None:
    draw = np.random.default_rng(0)
    low, high = draw.integers(0, 5, 30).astype(float), draw.integers(1, 7, 20).astype(float)
    pairs_of = [(1.0 if b > a else 0.5 if a == b else 0.0) for a in low for b in high]
    assert histogram._area(low, high) == pytest.approx(np.mean(pairs_of))


def test_traces_end_where_features_are(reader: Reader) -> None:
    texts = [*labelled(5, 10).texts, "short", "", "næsten 🙂 - " * 9]
    traced = read_traces(reader, [prepare(text) for text in texts], [UNIT, 0])
    assert [len(trace) for trace in traced] == [len(prepare(text)) for text in texts]
    final = np.stack([trace[-1] for trace in traced])
    assert final == pytest.approx(reader.features(texts)[:, [UNIT, 0]], abs=1e-6)


def test_shifts_finds_where_the_mark_stands(reader: Reader, tmp_path: Path) -> None:
    texts = [f"{'x' * 60} + {'y' * 40}"] * 3
    report = shifts.evaluate(reader, texts, None)
    by_byte = {row["from"]: row["mean_change"] for row in report.values["by_byte"]}
    assert max(by_byte, key=lambda start: by_byte[start]) == 50  # 25 bytes each; the mark is byte 63
    assert by_byte[50] == pytest.approx(1 / 25, rel=0.05)
    by_share = {row["from"]: row["mean_change"] for row in report.values["by_share"]}
    assert max(by_share, key=lambda start: by_share[start]) == pytest.approx(0.55)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["by_byte", "by_share"])


def test_heatmap(reader: Reader, tmp_path: Path) -> None:
    texts = ["It was $ 5 + $ 6 &amp; 🙂", "x" * 200]
    traced = heatmap.trace(reader, texts, [UNIT, 0])
    report = heatmap.report(reader, traced, [UNIT, 0], {"text_1": "<p>"})
    assert report.values["texts"][0]["final"]["5"] == pytest.approx(1.0, abs=0.05)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["text_1", "text_2"])
    assert (tmp_path / "text_1.html").read_text() == "<p>"


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


def paired(rows: int, seed: int) -> tuple[pairs.Pairs, pairs.Pairs]:
    """Pairs of marks: paraphrase if they are the same; as scores 1 or 5, and 3 where one has no mark."""
    draw = np.random.default_rng(seed)
    marks = [(str(draw.choice(["+", "-"])), str(draw.choice(["+", "-", "."]))) for _ in range(rows)]
    first, second = ([f"this {draw.integers(999)} {pair[side]} one" for pair in marks] for side in (0, 1))
    scores = ["3" if b == "." else "5" if a == b else "1" for a, b in marks]
    same = [str(int(a == b)) for a, b in marks]
    return pairs.Pairs(first, second, same), pairs.Pairs(first, second, scores)


def test_paraphrase(reader: Reader, tmp_path: Path) -> None:
    train, valid, test = (paired(rows, seed)[0] for rows, seed in ((90, 1), (45, 2), (45, 3)))
    report = pairs.paraphrase(reader, train, valid, test, folds=5)
    values = report.values
    assert (values["accuracy"], values["f1"]) == (1.0, 1.0)
    assert values["accuracy_most_frequent"] < 0.9
    other = replace(test, labels=["1" if label == "0" else "0" for label in test.labels])
    again = pairs.paraphrase(reader, train, None, other, folds=2).values
    assert (again["accuracy"], again["f1"]) == (0.0, 0.0)
    assert again["C"] == pairs.paraphrase(reader, train, None, test, folds=2).values["C"]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["choice"])


@pytest.mark.parametrize("has_valid", [True, False])
def test_relatedness(reader: Reader, tmp_path: Path, has_valid: bool) -> None:
    train, valid, test = (paired(rows, seed)[1] for rows, seed in ((90, 1), (45, 2), (45, 3)))
    report = pairs.relatedness(reader, train, valid if has_valid else None, test)
    values = report.values
    assert values["r"] > 0.95
    assert values["rho"] > 0.9
    assert values["mse"] < 0.2 < values["mse_mean_score"]
    turned = replace(test, labels=[str(6 - int(label)) for label in test.labels])
    other = pairs.relatedness(reader, train, valid if has_valid else None, turned).values
    assert other["r"] == pytest.approx(-values["r"])
    assert other["C"] == values["C"]
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["relatedness"])


def test_a_score_between_whole_ones_is_shared() -> None:
    x = np.zeros((4, 1))
    predict = pairs._fit_scores(x, np.array([1.25, 1.25, 2.5, 3.0]), 1, 3, 1.0)
    assert predict(x[:1])[0] == pytest.approx(2.0, abs=0.01)  # nothing to tell them by: their mean


def test_ranks_share_ties() -> None:
    assert pairs._ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "1"], "scores must be numbers"),
        (["1", "inf"], "must be finite"),
        (["0", "100"], "rescale them"),
        (["4", "4"], "they must span 2"),
    ],
)
def test_scores_that_will_not_do(reader: Reader, labels: list[str], message: str) -> None:
    bad = pairs.Pairs(["a", "b"], ["c", "d"], labels)
    with pytest.raises(EvaluationError, match=message):
        pairs.relatedness(reader, bad, None, pairs.Pairs(["a", "b"], ["c", "d"], ["1", "2"]))


def letters(rows: int, seed: int) -> Labelled:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    texts = [" ".join("bg"[label] * int(draw.integers(2, 9)) for _ in range(6)) for label in labels]
    return Labelled(texts, [str(label) for label in labels])


def test_generation_is_judged_by_what_it_says(reader: Reader, tmp_path: Path) -> None:
    report = generation.evaluate(reader, letters(60, 1), letters(30, 2), 12, 40, 1.0, 0)
    values = report.values
    kinds = {(kind["prompt"], kind["sentiment"]): kind for kind in values["kinds"]}
    assert len(kinds) == 6
    for prompt in generation.PROMPTS:
        assert kinds[prompt, 1.0]["on_asked_side"] == kinds[prompt, -1.0]["on_asked_side"] == 1.0
        assert kinds[prompt, 0.0]["on_asked_side"] is None
        assert len(kinds[prompt, 1.0]["texts"]) == 12
        assert kinds[prompt, 1.0]["distinct"] > 6
        assert all(one["text"].startswith(prompt) for one in kinds[prompt, 1.0]["texts"])
    assert (values["on_asked_side"], values["accuracy_judge"]) == (1.0, 1.0)
    report.write(tmp_path, {})
    assert_pictures(tmp_path, ["generation"])
    assert "I couldn't figure out" in (tmp_path / "report.md").read_text()
    assert values["on_asked_side_ranked"] is None


def test_the_best_of_several_are_those_that_the_head_ranks_first(tmp_path: Path) -> None:
    """Two letters are drawn by chance, whatever is held; the judge knows gg and bb, the head counts letters."""
    model = carrier()
    with torch.no_grad():
        model.output_w.zero_()
        model.output_b[ord(" ")] = -50.0
        model.embedding[ord("g"), 0], model.embedding[ord("b"), 0] = 1.0, -1.0
    head = Head(["negative", "positive"], {UNIT: [1.0]}, [0.0], pooling="mean")
    manifest = Manifest("lot", 1, model.architecture, 1, None, {}, Calibration(UNIT, 1, 0.0, 1.0), {"sentiment": head})
    reader = Reader(volumes.publish(tmp_path / "volume", model, manifest, torch.float32), tmp_path / "cache")
    values = generation.evaluate(reader, letters(60, 1), letters(30, 2), 40, 2, 1.0, 0, best_of=16).values
    free = {kind["sentiment"]: kind for kind in values["kinds"] if not kind["prompt"]}
    assert sum(free[side]["on_asked_side"] for side in (1.0, -1.0)) < 1.4
    for side in (1.0, -1.0):
        assert free[side]["ranked"]["on_asked_side"] > 0.9
        assert len(free[side]["texts"]) == len(free[side]["ranked"]["texts"]) == 40
    assert values["on_asked_side_ranked"] > values["on_asked_side"]


def test_a_newline_ends_a_sample_and_a_seed_makes_it_again(reader: Reader) -> None:
    def write(seed: int) -> list[str]:
        requests = generation.sample_requests("", {UNIT: 1.0}, 6, 30, 1.0, seed)
        return [row.text for row in run_rows(reader.model, requests)]

    assert write(1) == write(1) != write(2)
    assert all(len(text) == 30 for text in write(1))
    with torch.no_grad():
        model = carrier()
        model.output_b[ord("\n")] = 13.0
    requests = generation.sample_requests("", {UNIT: 1.0}, 20, 30, 1.0, 1)
    ended = [row.text for row in run_rows(FoldedModel(model, dtype=torch.float32), requests)]
    assert len({len(text) for text in ended}) > 3
    assert not any("\n" in text for text in ended)


def test_what_needs_a_sentiment_unit_says_so(tmp_path: Path) -> None:
    model = carrier()
    bare = Manifest("bare", 1, model.architecture, 1000, None, {})
    own = Reader(volumes.publish(tmp_path / "volume", model, bare, torch.float32), tmp_path / "cache")
    with pytest.raises(EvaluationError, match="bare/step-1 has no sentiment unit"):
        generation.evaluate(own, letters(20, 1), None, 2, 5, 1.0, 0)
    with pytest.raises(EvaluationError, match="bare/step-1 has no sentiment unit"):
        shifts.evaluate(own, ["a"], None)


def test_what_the_baseline_chose_is_kept_by_its_texts(tmp_path: Path) -> None:
    texts, labels = letters(60, 1).texts, np.array([int(label) for label in letters(60, 1).labels])
    splits = [(np.arange(40), np.arange(40, 60))]
    advanced: list[int] = []
    first = baseline.fit_baseline(texts, labels, 60, splits, tmp_path, advanced.append)
    assert advanced == [1] * baseline.fits(splits)
    (kept,) = tmp_path.iterdir()

    def again(texts: list[str]) -> baseline.Baseline:
        advanced.clear()
        return baseline.fit_baseline(texts, labels, 60, splits, tmp_path, advanced.append)

    found = again(texts)
    assert advanced == [baseline.fits(splits)]
    assert (found.min_df, found.c, found.accuracy) == (first.min_df, first.c, first.accuracy)
    assert (found.predict(texts) == first.predict(texts)).all()
    again([*texts[:-1], "other"])
    assert advanced == [1] * baseline.fits(splits)
    for damage in ("", "[7, 1.0, 0.5]", "{}", "[1]"):
        kept.write_text(damage)
        again(texts)
        assert advanced == [1] * baseline.fits(splits)


# reports


def test_a_table_stays_a_table(tmp_path: Path) -> None:
    table = Table("Some.", ["a|b", "c"], [["x|y", 0.123456], ["two\nlines", 7]])
    Report("demo", {"n": 1}, [table], notes=["A note."]).write(tmp_path, {"checkpoint": "x"})
    text = (tmp_path / "report.md").read_text()
    assert "| a\\|b | c |\n| --- | --- |\n| x\\|y | 0.1235 |\n| two lines | 7 |" in text
    assert "A note." in text
    assert json.loads((tmp_path / "report.json").read_text()) == {"protocol": "demo", "checkpoint": "x", "n": 1}
    assert not list(tmp_path.glob("*.partial"))


def test_packed_files_and_columns(tmp_path: Path) -> None:
    content = b"stars,review,id\nbad,one,1\ngood,two,2\n"
    train = write_packed(tmp_path / "train.csv.xz", content)
    test = write_packed(tmp_path / "test.csv.gz", content)
    found = read_sets(train, None, test, "review", "stars")
    assert found.labels == ["bad", "good"]
    assert found.test.texts == ["one", "two"]


def assert_pictures(out: Path, names: list[str]) -> None:
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    for name in names:
        picture = matplotlib.image.imread(out / f"{name}.png")
        assert min(picture.shape[:2]) > 100
        assert float(picture.std()) > 0.01  # something is drawn


# growth


def test_a_model_is_followed_by_the_bytes_it_had_read(tmp_path: Path) -> None:
    """One that has not learned the mark, and one that has; given the wrong way round."""
    young, grown = carrier(), carrier()
    with torch.no_grad():
        young.cell.gx[3 * UNITS + UNIT] = 0.0
        young.cell.b[UNIT] = -7.0
    readers = []
    for step, model, bits in ((9, grown, 1.5), (2, young, None)):
        manifest = Manifest("growing", step, model.architecture, 1000 * step, bits, {})
        readers.append(Reader(volumes.publish(tmp_path, model, manifest, torch.float32, True), tmp_path / "cache"))
    report = growth.evaluate(readers, sets())
    first, last = report.values["points"]
    assert (first["bytes_seen"], last["bytes_seen"]) == (2000, 9000)
    assert (first["bits_per_byte"], last["bits_per_byte"]) == (None, 1.5)
    assert (last["unit"], last["accuracy_unit"], last["accuracy_cell"], last["accuracy_mean"]) == (UNIT, 1.0, 1.0, 1.0)
    assert first["accuracy_unit"] < 0.8
    report.write(tmp_path / "out", {})
    assert_pictures(tmp_path / "out", ["growth"])
    assert "| 9,000 | 1.500 | 100.0 % | 100.0 % | 100.0 % | 5 |" in (tmp_path / "out" / "report.md").read_text()


def test_points_of_checkpoints_that_are_gone_are_kept(reader: Reader) -> None:
    before = growth.evaluate([reader], sets())
    gone = {**before.values["points"][0], "manifest_sha256": "gone", "bytes_seen": 1}
    whole = growth.evaluate([reader], sets(), [{"protocol": "growth", **before.values, "points": [gone]}])
    assert whole.values["points"] == [gone, before.values["points"][0]]
    for other in (
        {**before.values, "protocol": "growth", "labels": ["0", "2"]},
        {"protocol": "units", **before.values},
    ):
        with pytest.raises(EvaluationError, match="give reports of `neuron evaluate growth` on the same sets"):
            growth.evaluate([reader], sets(), [other])


def test_what_cannot_be_followed(reader: Reader) -> None:
    with pytest.raises(EvaluationError, match="there is no checkpoint"):
        growth.evaluate([], sets())
    with pytest.raises(EvaluationError, match="the one unit needs two labels"):
        growth.evaluate([reader], sets(marks="-+*"))

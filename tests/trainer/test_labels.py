"""Labels of a corpus: beside the right reviews whatever the format, counted, of classes, and weighed by them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from trainer.corpus.build import build_corpus
from trainer.corpus.codes import Codes
from trainer.corpus.corpus import MANIFEST, Corpus, CorpusError
from trainer.corpus.labels import Labelling, Labels, LabelsError

ROWS = [
    (f"review {number} says {label or 'nothing'}", label)
    for number in range(40)
    for label in [("5", "1", "", "3")[number % 4]]
]
CLASSES = {"negative": ["1", "2"], "positive": ["4", "5"]}


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows in the format of the suffix; numbers where the format has them."""
    match path.suffix:
        case ".csv":
            path.write_text("stars,text\n" + "".join(f'{label},"{text}"\n' for text, label in rows))
        case ".jsonl":
            objects = [{"text": text, "stars": float(label) if label else None} for text, label in rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in objects))
        case ".parquet":
            stars = [int(label) if label else None for _, label in rows]
            pq.write_table(pa.table({"text": [text for text, _ in rows], "stars": stars}), path)
        case _:
            path.write_text("".join(text + "\n" for text, _ in rows))
            (path.parent / "labels").mkdir(exist_ok=True)
            (path.parent / "labels" / path.name).write_text("".join(label + "\n" for _, label in rows))
    return path


def labelling(path: Path, classes: dict[str, list[str]] = CLASSES) -> Labelling:
    if path.suffix == ".txt":
        return Labelling(
            directory=path.parent / "labels", classes={k: [v for v in vs if v in "15"] for k, vs in classes.items()}
        )
    return Labelling("stars", classes={k: [v for v in vs if v in "15"] for k, vs in classes.items()})


def build(source: Path, out: Path, **more: Any) -> Corpus:
    field = None if source.suffix == ".txt" else "text"
    build_corpus([source], out, 4, text_field=field, **{"labelling": labelling(source)} | more)
    return Corpus(out)


def found_in(corpus: Corpus) -> dict[str, str]:
    """Text -> label, as the shards say."""
    labels = corpus.manifest.labels
    assert labels is not None
    found = {}
    for entry in corpus.manifest.shards:
        texts = corpus.read(entry).tobytes().decode().split("\n ")[1:]
        records = np.frombuffer((corpus.directory / entry.file.replace(".bin", ".labels")).read_bytes(), "u1, <u2")
        found |= {text: ["", *labels.values][code] for text, (code, _) in zip(texts, records, strict=True)}
    return found


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_labels_stand_beside_their_reviews_in_every_format(tmp_path: Path, suffix: str) -> None:
    corpus = build(write(tmp_path / f"a{suffix}", ROWS), tmp_path / "built")
    assert found_in(corpus) == dict(ROWS)
    labels = corpus.manifest.labels
    assert labels is not None
    assert labels.values == ["1", "3", "5"]
    assert labels.counts == [[10, 10, 10, 10]]
    assert labels.classes == {"negative": ["1"], "positive": ["5"]}
    corpus.verify()


def test_labels_change_no_byte_of_the_text(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", ROWS)
    plain = build_corpus([source], tmp_path / "plain", 4, text_field="text")
    labelled = build(source, tmp_path / "labelled").manifest
    assert [shard.sha256 for shard in plain.shards] == [shard.sha256 for shard in labelled.shards]
    assert plain.labels is None
    assert not list((tmp_path / "plain").glob("*.labels"))
    assert Corpus(tmp_path / "plain").read_reviews(plain.shards[0]) is None


def test_copies_keep_the_label_that_they_agree_on_in_any_order(tmp_path: Path) -> None:
    texts = [*(text for text, _ in ROWS[:9]), "labelled twice", "labelled and not", "labelled apart"]
    one = [*ROWS[:9], ("labelled twice", "1"), ("labelled and not", ""), ("labelled apart", "1")]
    two = [("labelled apart", "5"), ("labelled and not", "5"), ("labelled twice", "1")]
    a, b = write(tmp_path / "a.csv", one), write(tmp_path / "b.csv", two)
    manifests = []
    for number, files in enumerate(([a, b], [b, a])):
        out = tmp_path / str(number)
        build_corpus(files, out, 3, text_field="text", labelling=Labelling("stars"))
        manifests.append((out / MANIFEST).read_bytes())
        corpus = Corpus(out)
        found = found_in(corpus)
        assert {text: found[text] for text in texts[9:]} == {
            "labelled twice": "1",
            "labelled and not": "5",
            "labelled apart": "",
        }
        assert corpus.manifest.labels is not None
        assert corpus.manifest.labels.disagreeing == 1
        assert [source.file for source in corpus.manifest.sources] == ["a.csv", "b.csv"]
        assert sum(corpus.manifest.labels.counts[1]) == 0, "a review of two files counts for the first"
    assert manifests[0] == manifests[1]


def test_files_of_text_without_a_file_of_labels_have_none(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", ROWS)
    bare = tmp_path / "bare.txt"
    bare.write_text("without a label\n")
    build_corpus([source, bare], tmp_path / "built", 3, labelling=labelling(source))
    assert found_in(Corpus(tmp_path / "built"))["without a label"] == ""


def test_a_missing_label_as_other_programs_write_it_is_none(tmp_path: Path) -> None:
    labels = ["1", "5", "nan", "None", "NULL", ""]
    source = tmp_path / "a.jsonl"
    source.write_text("".join(f'{{"text": "text {n}", "stars": "{labels[n % 6]}"}}\n' for n in range(42)))
    manifest = build_corpus([source], tmp_path / "built", 3, text_field="text", labelling=Labelling("stars"))
    assert manifest.labels is not None
    assert (manifest.labels.values, manifest.labels.counts) == (["1", "5"], [[28, 7, 7]])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("1\n" * 39, r"labels/a\.txt ends after 39 lines, .*a\.txt continues"),
        ("1\n" * 42, r"labels/a\.txt has 42 lines, .*a\.txt 40"),
        ("5\xff\n" * 40, r"labels/a\.txt, line 1: not UTF-8 \(byte 0xff\)"),
        ("x" * 65 + "\n" * 40, "a label has 65 characters, at most 64"),
        ("".join(f"{n}\n" for n in range(40)), "class negative has '2'"),
    ],
)
def test_files_of_labels_that_do_not_fit(tmp_path: Path, labels: str, said: str) -> None:
    source = write(tmp_path / "a.txt", ROWS)
    (tmp_path / "labels" / "a.txt").write_bytes(labels.encode("latin-1"))
    asked = Labelling(
        directory=tmp_path / "labels", classes={"negative": ["2x"] if "2\n" in labels else ["1"], "positive": ["5"]}
    )
    if "2\n" in labels:
        said = "class negative has '2x', which no review is labelled with"
    with pytest.raises(CorpusError, match=said):
        build_corpus([source], tmp_path / "built", 3, labelling=asked)
    assert not (tmp_path / "built").exists()


def test_what_is_no_label(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text,id\n" + "".join(f"text {n},{n}\n" for n in range(300)))
    with pytest.raises(
        CorpusError, match=r"a\.csv: there are more than 255 different labels \('0', '1', .*is this the label"
    ):
        build_corpus([source], tmp_path / "built", 3, text_field="text", labelling=Labelling("id"))
    with pytest.raises(
        CorpusError, match=r"the label field 'stars' is not there \(--label-field\); there are: text, id"
    ):
        build_corpus([source], tmp_path / "built", 3, text_field="text", labelling=Labelling("stars"))
    for content, said in (("", "no review has a label"), ("5", "every label is '5'")):
        lines = tmp_path / "a.jsonl"
        lines.write_text("".join(f'{{"text": "text {n}", "stars": "{content}"}}\n' for n in range(40)))
        with pytest.raises(CorpusError, match=rf"{said}, there must be two .* \(--label-field stars\)"):
            build_corpus([lines], tmp_path / "built", 3, text_field="text", labelling=Labelling("stars"))
    with pytest.raises(CorpusError, match=r"holds no file named as one of the sources, such as a\.csv"):
        build_corpus(
            [source], tmp_path / "built", 3, text_field="text", labelling=Labelling(directory=tmp_path / "none")
        )


def test_a_label_file_that_is_damaged_is_noticed(tmp_path: Path) -> None:
    corpus = build(write(tmp_path / "a.csv", ROWS), tmp_path / "built")
    path = tmp_path / "built" / "shard-00001.labels"
    good = path.read_bytes()
    for content, said in ((good[:-1], "holds 29 bytes"), (b"\xff" + good[1:], "is damaged")):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=said):
            corpus.read_reviews(corpus.manifest.shards[1])
        with pytest.raises(CorpusError, match=r"shard-00001\.labels"):
            corpus.verify()


def test_a_manifest_of_labels_that_cannot_be_is_refused(tmp_path: Path) -> None:
    build(write(tmp_path / "a.csv", ROWS), tmp_path / "built")
    path = tmp_path / "built" / MANIFEST
    for change, said in (
        ({"classes": {"negative": ["1"], "positive": ["1"]}}, "label '1' is in two classes"),
        ({"classes": {"negative": ["1"], "positive": []}}, "class positive has no value"),
        ({"classes": {"negative": ["1"]}}, "at least 2"),
        ({"counts": [[1, 2]]}, "counts are not of 4 columns"),
        ({"counts": []}, "labels are counted for 0 sources"),
        ({"values": []}, "at least 1"),
    ):
        raw = json.loads(path.read_text())
        raw["labels"] |= change
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        (copy / MANIFEST).write_text(json.dumps(raw))
        with pytest.raises(CorpusError, match=said):
            Corpus(copy)


# ---- classes and weights


def labels_of(counts: list[list[int]]) -> Labels:
    return Labels(["-", "1", "3", "5"], {"negative": ["-", "1"], "positive": ["5"]}, counts, 0)


def test_classes_weigh_alike_within_a_source() -> None:
    weights = labels_of([[7, 10, 10, 50, 60], [1, 0, 30, 1, 10], [3, 0, 0, 9, 80]]).balance
    assert weights[0].tolist() == pytest.approx([0, 2.0, 2.0, 0, 2 / 3])  # 20 and 60 of 80
    assert weights[1].tolist() == pytest.approx([0, 2 / 3, 2 / 3, 0, 2.0])
    assert not weights[2].any(), "a source of one class says nothing of the label"


def test_a_rare_class_weighs_no_more_than_its_limit() -> None:
    assert labels_of([[0, 0, 1, 0, 999]]).balance[0].tolist() == pytest.approx([0, 8, 8, 0, 500 / 999], rel=1e-3)


def test_weights_are_derived_once() -> None:
    labels = labels_of([[7, 10, 10, 50, 60]])
    assert labels.balance is labels.balance
    assert labels.class_of_code is labels.class_of_code


def test_every_byte_has_the_class_and_the_weight_of_its_review(tmp_path: Path) -> None:
    corpus = build(write(tmp_path / "a.csv", ROWS), tmp_path / "built")
    labels = corpus.manifest.labels
    assert labels is not None
    entry = corpus.manifest.shards[1]
    reviews, data = corpus.read_reviews(entry), corpus.read(entry).tobytes()
    assert reviews is not None
    classes: list[int] = []
    weights: list[float] = []
    mean = sum(shard.bytes for shard in corpus.manifest.shards) / 40
    for text in data.decode().split("\n")[1:]:
        size, label = len(text) + 1, dict(ROWS)[text.strip()]
        classes += [int(label == "5")] * size
        scale = (label in ("1", "5")) * (mean / size) ** 0.5
        weights += [2 * (place + 1) / size * scale for place in range(size)]
    for begin, end in [(0, len(data)), (0, 1), (3, 30), (25, 26), (31, 100), (len(data) - 5, len(data))]:
        found: tuple[NDArray[np.int64], NDArray[np.float32]] = reviews.window(begin, end)
        assert found[0].dtype == np.int64
        assert found[1].dtype == np.float32
        counted = np.array(weights[begin:end]) > 0
        assert found[0][counted].tolist() == np.array(classes[begin:end])[counted].tolist()
        np.testing.assert_allclose(found[1], weights[begin:end], rtol=1e-5)


def test_codes_are_of_values_as_people_write_them() -> None:
    codes = Codes()
    assert codes.of(pa.array(["5.0", None, " 5 ", "", "4.5", "-1.00"])).tolist() == [1, 0, 1, 0, 2, 3]
    assert codes.of(pa.array(["-1", "5"])).tolist() == [3, 1]
    assert list(codes.values) == ["5", "4.5", "-1"]
    assert codes.ranks().tolist() == [0, 3, 2, 1]
    assert codes.of(pa.array([], pa.string())).tolist() == []
    with pytest.raises(LabelsError, match="65 characters"):
        codes.of(pa.array(["x" * 65]))

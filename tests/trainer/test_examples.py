"""Examples for heads: the reviews of a corpus with their own labels, drawn evenly, and those of files."""

import resource
from collections import Counter
from pathlib import Path

import pytest

from model.heads.checks import HeadError
from texts.labelled import Labelled
from texts.preparation import prepare
from texts.sets import Sentiment
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.corpus.labels import Labelling
from trainer.publishing.examples import drawn, held_out, joined, of_file
from trainer.publishing.heads import HeadSpec
from trainer.publishing.material import of_corpus, of_files

SENTIMENT = HeadSpec.parse("sentiment:negative=1 positive=5")
STARS = HeadSpec.parse("stars:1=1 3=3 5=5")
FILES = Sentiment(Labelled(["bad", "good"], ["0", "1"]), Labelled(["poor", "fine", "great"], ["0", "1", "1"]))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A large and a small source; one label in eight is 3, a quarter of the reviews has none."""
    directory = tmp_path_factory.mktemp("corpus")
    paths = []
    for name, rows in (("large", 800), ("small", 80)):
        labels = [["5", "1", "", "5", "3", "1", "", "5"][number % 8] for number in range(rows)]
        paths.append(directory / f"{name}.csv")
        lines = [f"{label},{name} review {number} is {label or 'unknown'}\n" for number, label in enumerate(labels)]
        paths[-1].write_text("stars,text\n" + "".join(lines))
    classes = {"negative": ["1"], "positive": ["5"]}
    build_corpus(paths, directory / "built", 5, text_field="text", labelling=Labelling("stars", classes=classes))
    return Corpus(directory / "built")


def test_reviews_come_with_their_own_labels_as_the_model_reads_them(corpus: Corpus) -> None:
    everything = joined(
        [drawn(corpus, {"1", "3", "5"}, 10_000, 0)]
        + [held_out(corpus, entry, {"1", "3", "5"}) for entry in (corpus.validation, corpus.test)]
    )
    assert len(everything) == len(set(everything.texts)) == 880 * 6 // 8
    for text, value, source in zip(everything.texts, everything.values, everything.sources, strict=True):
        name, _, number, _, said = text.decode().split()
        assert text == prepare(f"{name} review {number} is {said}")
        assert (said, f"{name}.csv") == (value, source)


def test_more_shards_than_files_that_may_be_open(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("stars,text\n" + "".join(f"{1 + 4 * (n % 2)},review {n}\n" for n in range(200)))
    build_corpus([source], tmp_path / "built", 100, text_field="text", labelling=Labelling("stars"))
    corpus = Corpus(tmp_path / "built")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 50, hard))
        found = drawn(corpus, {"1", "5"}, 1000, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(found) == 196


def test_no_source_and_no_label_drowns_the_others(corpus: Corpus) -> None:
    found = drawn(corpus, {"1", "3", "5"}, 120, 0)
    counts = Counter(zip(found.sources, found.values, strict=True))
    values = ["", "1", "3", "5"]
    there = Counter(
        (corpus.manifest.sources[int(row["source"])].file, values[int(row["label"])])
        for entry in corpus.training
        for row in corpus.read_labels(entry)
    )
    most = max(counts.values())
    assert there["small.csv", "3"] < most < there["large.csv", "3"]
    assert all(counts[group] in (size, most, most - 1) for group, size in there.items() if group[1])
    assert sum(counts.values()) == 120


def test_a_seed_draws_the_same(corpus: Corpus) -> None:
    assert drawn(corpus, {"1", "5"}, 50, 7) == drawn(corpus, {"1", "5"}, 50, 7)
    assert drawn(corpus, {"1", "5"}, 50, 7) != drawn(corpus, {"1", "5"}, 50, 8)


def test_labels_that_a_corpus_does_not_have(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no label '4'; there are: 1, 3, 5"):
        drawn(corpus, {"4", "5"}, 10, 0)
    (tmp_path / "plain.txt").write_text("".join(f"review {number}\n" for number in range(40)))
    build_corpus([tmp_path / "plain.txt"], tmp_path / "plain", 4)
    with pytest.raises(CorpusError, match="has no labels: build it with --label-field or --labels"):
        drawn(Corpus(tmp_path / "plain"), {"5"}, 10, 0)


def test_a_file_joins_the_reviews(corpus: Corpus) -> None:
    assert of_file(FILES.train, "train").values == ["negative", "positive"]
    alone, both = of_corpus(corpus, [SENTIMENT], 50, 0, None), of_corpus(corpus, [SENTIMENT, STARS], 60, 0, FILES)
    assert len(alone.train) == 50
    assert both.train.texts[-2:] == [prepare("bad"), prepare("good")]
    assert both.valid.values[-3:] == ["negative", "positive", "positive"]
    assert both.test is not None
    assert set(both.test.sources) == {"large.csv", "small.csv"}
    held = len(both.valid) - 3
    assert both.calibrated_on == f"{held} reviews of the corpus' validation shard and 3 validation texts"
    assert of_files(FILES).calibrated_on == "3 validation texts"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([STARS], "one head must be sentiment, of the labels negative and positive"),
        ([HeadSpec.parse("sentiment:positive=5 negative=1")], "one head must be sentiment"),
        ([SENTIMENT, STARS, STARS], "two heads have the same name: sentiment, stars, stars"),
    ],
)
def test_heads_that_do_not_go_together(corpus: Corpus, specs: list[HeadSpec], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        of_corpus(corpus, specs, 10, 0, None)

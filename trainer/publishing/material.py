"""`Material`: the heads that a checkpoint gets, and the labelled texts that they are fitted to and judged on."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.heads.checks import HeadError
from model.heads.classifier import SENTIMENT_HEAD, SENTIMENT_LABELS
from texts.sets import Sentiment
from trainer.corpus.corpus import Corpus
from trainer.publishing.examples import Examples, drawn, held_out, joined, of_file
from trainer.publishing.heads import SENTIMENT, HeadSpec


@dataclass(frozen=True)
class Material:
    """specs: the heads. calibrated_on: what `valid` is, in words, for the manifest.

    Raises HeadError where none of the heads is `sentiment` of the labels negative and positive, which the sentiment
    unit is calibrated to.
    """

    specs: Sequence[HeadSpec]
    train: Examples
    valid: Examples
    test: Examples | None
    calibrated_on: str

    def __post_init__(self) -> None:
        if not any(spec.name == SENTIMENT_HEAD and list(spec.labels) == SENTIMENT_LABELS for spec in self.specs):
            raise HeadError(f"one head must be {SENTIMENT_HEAD}, of the labels {' and '.join(SENTIMENT_LABELS)}")
        names = [spec.name for spec in self.specs]
        if len(set(names)) != len(names):
            raise HeadError(f"two heads have the same name: {', '.join(sorted(names))}")

    @property
    def sentiment(self) -> HeadSpec:
        return next(spec for spec in self.specs if spec.name == SENTIMENT_HEAD)

    def __len__(self) -> int:
        """The number of all texts."""
        return sum(len(part) for part in (self.train, self.valid, self.test) if part is not None)


def of_files(files: Sentiment) -> Material:
    """The head `sentiment` from labelled files."""
    test = None if files.test is None else of_file(files.test, "test")
    valid = of_file(files.valid, "valid")
    return Material([SENTIMENT], of_file(files.train, "train"), valid, test, f"{len(valid)} validation texts")


def of_corpus(corpus: Corpus, specs: Sequence[HeadSpec], count: int, seed: int, files: Sentiment | None) -> Material:
    """Heads from the reviews of a corpus: `count` of its training shards, and all of the two that are held out.

    files: labelled texts that join them. Raises CorpusError where the corpus lacks a label.
    """
    values = {value for spec in specs for value in spec.values}
    train, valid, test = (
        drawn(corpus, values, count, seed),
        held_out(corpus, corpus.validation, values),
        held_out(corpus, corpus.test, values),
    )
    about = f"{len(valid)} reviews of the corpus' validation shard"
    if files is not None:
        added = of_files(files)
        train, valid = joined([train, added.train]), joined([valid, added.valid])
        test = test if added.test is None else joined([test, added.test])
        about += f" and {added.calibrated_on}"
    return Material(specs, train, valid, test, about)

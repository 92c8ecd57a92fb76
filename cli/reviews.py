"""The labelled reviews of a corpus, as the sets that a protocol is evaluated on."""

from pathlib import Path

from click import ClickException

from model.heads.classifier import SENTIMENT_LABELS
from texts.labelled import Labelled
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.publishing.examples import Examples, drawn, held_out

Reviews = tuple[Labelled, list[str]]  # texts labelled 0 or 1, and the source of each


def labelled_reviews(directory: Path, count: int, seed: int = 0) -> tuple[Reviews, Reviews, Reviews]:
    """At most `count` training reviews, those held out for validation, and those for tests, negative or positive.

    Raises ClickException.
    """
    try:
        corpus = Corpus(directory)
        labels = corpus.manifest.labels
        if labels is None or not set(SENTIMENT_LABELS) <= labels.classes.keys():
            raise CorpusError(f"{directory} has no classes {' and '.join(SENTIMENT_LABELS)}: build it with --labels")
        number = {value: n for n, name in enumerate(SENTIMENT_LABELS) for value in labels.classes[name]}
        parts = (
            drawn(corpus, number, count, seed),
            held_out(corpus, corpus.validation, number),
            held_out(corpus, corpus.test, number),
        )
    except CorpusError as error:
        raise ClickException(str(error)) from error
    train, valid, test = (_as_set(part, number) for part in parts)
    return train, valid, test


def _as_set(part: Examples, number: dict[str, int]) -> Reviews:
    texts = [text.decode("utf-8").strip() for text in part.texts]
    return Labelled(texts, [str(number[value]) for value in part.values]), part.sources

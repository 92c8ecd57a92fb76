"""Labelled texts that heads are fitted to and judged on: from labelled files, and from the reviews of a corpus."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.heads.classifier import SENTIMENT_LABELS
from texts.labelled import Labelled
from texts.preparation import SUFFIX, prepare
from trainer.corpus.corpus import Corpus, CorpusError, ShardEntry


@dataclass(frozen=True)
class Examples:
    """texts: as the model reads them. values: what each is labelled with. sources: where each is from. All (texts,).

    of_corpus: whether there are reviews of a corpus among them, not labelled files alone.
    """

    texts: list[bytes]
    values: list[str]
    sources: list[str]
    of_corpus: bool = False

    def __len__(self) -> int:
        return len(self.texts)


def of_file(labelled: Labelled, source: str) -> Examples:
    """Texts labelled 0 or 1, as `negative` and `positive`. Raises TextsError for any other label."""
    values = [SENTIMENT_LABELS[label] for label in labelled.binary()]
    return Examples([prepare(text) for text in labelled.texts], values, [source] * len(values))


def joined(parts: Iterable[Examples]) -> Examples:
    """The examples of all parts, in order."""
    parts = list(parts)
    return Examples(
        [text for part in parts for text in part.texts],
        [value for part in parts for value in part.values],
        [source for part in parts for source in part.sources],
        any(part.of_corpus for part in parts),
    )


def drawn(corpus: Corpus, values: Collection[str], count: int, seed: int) -> Examples:
    """At most `count` training reviews labelled with one of `values`, drawn without replacement.

    As many of every label of every source as there are, up to a common number, so that no large source and no frequent
    label drowns the others. Raises CorpusError for a corpus without labels, or none of these.
    """
    codes = _codes(corpus, values)
    # Copies: each map of a file keeps it open, and there may be more shards than files that may be.
    labels = [np.array(corpus.read_labels(entry)) for entry in corpus.training]
    shards = np.repeat(np.arange(len(labels)), [len(found) for found in labels])
    places = np.concatenate([np.arange(len(found)) for found in labels])
    found = np.concatenate(labels)
    wanted = np.flatnonzero(np.isin(found["label"], list(codes)))
    if len(wanted) == 0:
        raise CorpusError(f"{corpus.directory} has no training review labelled {', '.join(sorted(values))}")
    order = np.random.default_rng(seed).permutation(wanted)
    groups = found["source"][order].astype(np.int64) * 256 + found["label"][order]
    by_group = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[by_group], return_index=True, return_counts=True)
    rank = np.empty(len(order), np.int64)  # of each review among those drawn of its group
    rank[by_group] = np.arange(len(order)) - np.repeat(starts, sizes)
    chosen = np.sort(order[np.argsort(rank, kind="stable")[:count]])
    parts = []
    for shard in np.unique(shards[chosen]):
        parts.append(_reviews(corpus, corpus.training[shard], places[chosen[shards[chosen] == shard]], codes))
    return joined(parts)


def held_out(corpus: Corpus, entry: ShardEntry, values: Collection[str]) -> Examples:
    """All reviews of a held-out shard that are labelled with one of `values`. Raises CorpusError as `drawn`."""
    codes = _codes(corpus, values)
    places = np.flatnonzero(np.isin(corpus.read_labels(entry)["label"], list(codes)))
    return _reviews(corpus, entry, places, codes)


def _codes(corpus: Corpus, values: Collection[str]) -> dict[int, str]:
    """The values by their codes."""
    labels = corpus.labels
    if missing := sorted(set(values) - set(labels.values)):
        raise CorpusError(f"{corpus.directory} has no label {missing[0]!r}; there are: {', '.join(labels.values)}")
    return {code: value for code, value in enumerate(labels.values, start=1) if value in values}


def _reviews(corpus: Corpus, entry: ShardEntry, places: NDArray[np.int64], codes: dict[int, str]) -> Examples:
    data, found, reviews = corpus.read(entry), corpus.read_labels(entry), corpus.read_reviews(entry)
    if reviews is None:
        return Examples([], [], [], of_corpus=True)
    end = SUFFIX.encode()  # which a shard leaves out
    return Examples(
        [data[reviews.starts[place] : reviews.ends[place]].tobytes() + end for place in places],
        [codes[int(found["label"][place])] for place in places],
        [corpus.manifest.sources[int(found["source"][place])].file for place in places],
        of_corpus=True,
    )

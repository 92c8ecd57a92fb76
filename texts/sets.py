"""The parts of a labelled set: `find_parts`, the files in a directory that hold them, and `Sentiment`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from texts.faults import Faults, TextsError, shown
from texts.formats import FORMATS, PACKINGS
from texts.labelled import NEGATIVE, POSITIVE, WHERE_THEY_ARE, Columns, Labelled, read_labelled

# Part -> names of its file, without suffixes. *_binary_sent are those of the paper's repository, train and val those
# of NVIDIA's.
SST = {
    "train": ("sst_binary_train", "train_binary_sent", "train"),
    "valid": ("sst_binary_dev", "dev_binary_sent", "valid", "val", "dev", "validation"),
    "test": ("sst_binary_test", "test_binary_sent", "test"),
}
IMDB = {"train": ("imdb_train", "train"), "test": ("imdb_test", "test")}

_SUFFIXES = tuple(
    suffix + packed
    for known in FORMATS
    if known.name != "text"
    for suffix in known.suffixes
    for packed in ("", *(packed for packing in PACKINGS for packed in packing.suffixes))
)


def find_parts(directory: Path, names: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> dict[str, Path]:
    """The file of every part, under any of its names and in any format with labels, packed or not.

    optional: parts that may be missing. Raises TextsError for another that is not there, and for one that is there
    twice.
    """
    parts = {}
    there = {path.name.lower(): path for path in sorted(directory.iterdir())} if directory.is_dir() else {}
    for part, stems in names.items():
        found = [there[name] for stem in stems for suffix in _SUFFIXES if (name := stem + suffix) in there]
        if len(found) > 1:
            raise TextsError(f"{directory} holds {' and '.join(path.name for path in found)}: leave one of them there")
        if not found and part not in optional:
            wanted = " or ".join(f"{stem}.csv" for stem in stems)
            raise TextsError(f"{directory} holds no {wanted} (nor the same in another format, or packed)")
        if found:
            parts[part] = found[0]
    return parts


@dataclass(frozen=True)
class Sentiment:
    """Labelled texts, labels "0" (negative) and "1" (positive). Raises TextsError for any other."""

    train: Labelled
    valid: Labelled
    test: Labelled | None = None

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            try:
                if part is not None:
                    part.binary()
            except TextsError as error:
                raise TextsError(f"{name}: {error}") from error

    def __len__(self) -> int:
        """The number of all texts."""
        return sum(len(part.texts) for part in (self.train, self.valid, self.test) if part is not None)


@dataclass(frozen=True)
class SentimentColumns:
    """Where texts and labels are, and which labels are negative and positive. None may be both."""

    columns: Columns = WHERE_THEY_ARE
    negative: Sequence[str] = NEGATIVE
    positive: Sequence[str] = POSITIVE

    def __post_init__(self) -> None:
        if both := set(self.negative) & set(self.positive):
            raise TextsError(
                f"{shown(sorted(both))} is both negative and positive: say which with --negative and --positive"
            )

    def read(self, path: Path, faults: Faults) -> Labelled:
        """A file's texts with labels 0 and 1. Raises TextsError."""
        try:
            return read_labelled(path, faults, self.columns).sentiment(self.negative, self.positive)
        except TextsError as error:
            raise TextsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


BINARY = SentimentColumns()


def read_sentiment(directory: Path, faults: Faults, columns: SentimentColumns = BINARY) -> Sentiment:
    """The parts of a set that lie in a directory under the names of SST; the test part may be missing."""
    parts = find_parts(directory, SST, optional=("test",))
    read = {part: columns.read(path, faults) for part, path in parts.items()}
    return Sentiment(read["train"], read["valid"], read.get("test"))

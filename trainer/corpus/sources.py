"""Files of reviews: which ones a name stands for, and what is read of each (`Source`)."""

from dataclasses import dataclass
from pathlib import Path

from texts.dialect import AS_IT_IS, Dialect
from texts.faults import TextsError
from texts.formats import Format
from texts.reader import read_file
from texts.records import Field
from trainer.corpus.corpus import CorpusError


@dataclass(frozen=True)
class Source:
    """One file and how to read it. text, label_field: of texts and labels; the second None where there are none.

    labels: the file that holds the labels of plain text, one a line.
    """

    path: Path
    format: Format
    dialect: Dialect
    text: Field
    label_field: str | None = None
    labels: Path | None = None


def find_files(names: list[Path]) -> list[Path]:
    """The files that `names` (paths or globs, `**` too) stand for: each once, sorted. Raises CorpusError."""
    found: dict[Path, Path] = {}
    for name in names:
        try:
            is_directory, exists = name.is_dir(), name.exists()
        except OSError as error:
            raise CorpusError(f"{name} cannot be read: {error.strerror}") from error
        if is_directory:
            raise CorpusError(f"{name} is a directory: name its files, as in '{name}/*'")
        if exists:
            files = [name]
        elif any(character in str(name) for character in "*?["):
            files = [path for path in Path(name.anchor).glob(str(name.relative_to(name.anchor))) if path.is_file()]
        else:
            files = []
        if not files:
            raise CorpusError(f"{name}: no such file")
        found |= {path.resolve(): path for path in files}
    return sorted(found.values(), key=str)


def open_source(
    path: Path,
    text_field: str | None,
    spill: Path,
    label_field: str | None = None,
    labels: Path | None = None,
    dialect: Dialect = AS_IT_IS,
) -> Source:
    """Find out how to read a file.

    text_field: None for the only field of text there is. spill: a directory for what must be unpacked first. labels: a
    directory with a file of the same name for each file of text that has labels. Raises CorpusError.
    """
    try:
        with read_file(path, dialect, spill) as records:
            text = records.text_field(text_field, label_field)
            if records.format == "text":
                beside = None if labels is None else labels / path.name
                found = beside if beside is not None and beside.exists() else None
                return Source(path, "text", dialect, text, labels=found)
            label = None if label_field is None else records.label_field(label_field).name
            return Source(path, records.format, dialect, text, label)
    except TextsError as error:
        raise CorpusError(str(error)) from error

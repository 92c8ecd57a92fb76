"""The manual's table of formats is that of the code."""

from pathlib import Path

from texts.formats import FORMATS, PACKINGS

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
BEGIN, END = "<!-- formats: written by tests/texts/test_manual.py -->\n", "<!-- end -->"


def table() -> str:
    rows = [("format", "`--format`", "suffixes"), ("---", "---", "---")]
    rows += [(known.what, f"`{known.name}`", _suffixes(known.suffixes)) for known in FORMATS]
    rows += [(f"packed by {packing.what}", "", _suffixes(packing.suffixes)) for packing in PACKINGS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- | --- | --- |", "|---|---|---|")


def _suffixes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def write() -> None:
    """`python -c "from tests.texts.test_manual import write; write()"`"""
    text = PAGE.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:begin] + table() + text[end:])


def test_the_table_of_formats_is_that_of_the_code() -> None:
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()

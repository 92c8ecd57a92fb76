"""Names on the wire: one table of Redis keys."""

import re
from pathlib import Path

from contract import wire

ROOT = Path(__file__).parents[2]


def test_the_architecture_page_shows_the_table_of_keys() -> None:
    table = re.search(r"(?:^\|.*\n)+", wire.__doc__ or "", re.MULTILINE)
    assert table is not None
    assert table.group() in (ROOT / "docs/architecture.md").read_text()

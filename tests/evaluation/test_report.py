import json
from pathlib import Path

from evaluation.report import Report, Table


def test_a_table_stays_a_table(tmp_path: Path) -> None:
    table = Table("Some.", ["a|b", "c"], [["x|y", 0.123456], ["two\nlines", 7]])
    Report("demo", {"n": 1}, [table], notes=["A note."]).write(tmp_path, {"checkpoint": "x"})
    text = (tmp_path / "report.md").read_text()
    assert "| a\\|b | c |\n| --- | --- |\n| x\\|y | 0.1235 |\n| two lines | 7 |" in text
    assert "A note." in text
    assert json.loads((tmp_path / "report.json").read_text()) == {"protocol": "demo", "checkpoint": "x", "n": 1}
    assert not list(tmp_path.glob("*.partial"))

"""`bars` where stderr is no terminal: a line once in a while, and none from a command that is soon done."""

import pytest

from sentiment_neuron import bars as module
from sentiment_neuron.bars import bars


def test_a_command_that_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bars("texts") as shown:
        shown.advance(shown.add_task("", total=2))
    assert capsys.readouterr().err == ""


def test_a_line_tells_the_last_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    with bars("{task.description}") as shown:
        shown.add_task("reading", total=8)
        task = shown.add_task("fitting", total=4)
        shown.advance(task)
        shown.update(task, completed=3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["fitting", "fitting"]
    assert "1/4" in lines[0]
    assert "3/4" in lines[1]

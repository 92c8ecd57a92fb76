"""Children of a command: what one that ends too early wrote is shown."""

import os
from pathlib import Path

import click
import pytest

from cli.stack.children import Children
from tests.cli.conftest import ROOT
from tests.support.decoys import write_decoys


def test_the_end_of_the_log_tells_why_a_child_has_ended(tmp_path: Path) -> None:
    children = Children(tmp_path / "log")
    children.start("redis", os.environ, "cli.stack.embedded_redis", "no-port", str(tmp_path))
    with pytest.raises(click.ClickException) as ended:
        children.wait_until(lambda: False, "nothing has happened")
    assert ended.value.message.startswith("redis ended by itself with code 1; the log ends with:\n")
    assert "'no-port'" in ended.value.message
    children.stop()


@pytest.mark.parametrize("path", [":", ".", ".:{root}"])
def test_a_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Whatever PYTHONPATH it is given: the child is ours, and refuses its port."""
    monkeypatch.chdir(write_decoys(tmp_path))
    environment = os.environ | {"PYTHONPATH": path.format(root=ROOT)}
    children = Children(tmp_path / "log")
    children.start("redis", environment, "cli.stack.embedded_redis", "no-port", str(tmp_path))
    with pytest.raises(click.ClickException, match="'no-port'"):
        children.wait_until(lambda: False, "nothing has happened")
    children.stop()

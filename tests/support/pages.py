"""The pages of the project: their code blocks, and a copy of the checkout to run them in.

A block may write, overwrite and delete as a reader's would, so it never runs in the checkout itself.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# README and the pages of what it introduces, in a reader's order; tests/test_readme.py runs their blocks.
READER = ("README.md", "docs/api.md", "docs/cli.md", "docs/python.md", "docs/recurrent.md")
_LINKED_BYTES = 1 << 20  # larger files, the weights, are linked: they are replaced, never written into
# What a clone does not have, where Git cannot say.
_NOT_CLONED = {".git", ".venv", "runs", "data", "site", "build", "dist", "__pycache__"}
_LEFT_OVER = (".egg-info", "_cache")


def blocks(page: str, language: str = "sh") -> list[str]:
    """The code blocks of `page`, a path from the root, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def clone(directory: Path) -> Path:
    """`directory`, filled as a clone of the working tree would be, with `.venv` in place.

    Times are kept, so that `make` finds the set-up as done as it is in the checkout.
    """
    for name in _cloned():
        source, target = ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() or source.stat().st_size < _LINKED_BYTES:
            shutil.copy2(source, target, follow_symlinks=False)
        else:
            _link(source, target)
    environment = ROOT / ".venv"
    if environment.exists():
        (directory / ".venv").symlink_to(environment.resolve())
    return directory


def run(block: str, directory: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A block as a reader's shell runs it, but stopping at the first command that fails."""
    command = ["bash", "-euo", "pipefail", "-c", block]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _cloned() -> list[Path]:
    """Paths from the root: what Git tracks or would add and, without Git, what does not look made here."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _found()
    names = [name for name in listed.split("\0") if name and name != ".venv" and os.path.lexists(ROOT / name)]
    return list(map(Path, names)) or _found()


def _found() -> list[Path]:
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        for names in (folders, files):
            names[:] = [name for name in names if name not in _NOT_CLONED and not name.endswith(_LEFT_OVER)]
        found += [Path(folder, name).relative_to(ROOT) for name in files]
    return found

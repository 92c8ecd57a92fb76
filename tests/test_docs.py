"""Every `sh` block of docs/ runs as written, in a copy of the checkout, those of a page in order.

What needs a GPU, hours or other machines is in `bash` blocks. Other tests run the blocks of the pages that need the
service (tests/test_readme.py) and of operations.md, which need Docker (tests/operations/test_document.py).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.pages import ROOT, blocks, run

ELSEWHERE = {*pages.READER, "docs/operations.md"}
PAGES = [page for path in sorted((ROOT / "docs").glob("*.md")) if (page := f"docs/{path.name}") not in ELSEWHERE]
BLOCKS = [
    pytest.param(page, block, id=f"{page}-{number}") for page in PAGES for number, block in enumerate(blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_block_runs(page: str, block: str, clones: Callable[[str], Path]) -> None:
    done = run(block, clones(page), dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]


def test_blocks_are_found() -> None:
    assert len(BLOCKS) > 8


@pytest.mark.parametrize("git", [True, False])
def test_a_copy_is_whole_and_keeps_the_checkout_apart(
    git: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not git:
        monkeypatch.setenv("PATH", "")
    elif shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of Git")
    copy = pages.clone(tmp_path / "clone")
    for name in ("README.md", "Makefile", "pyproject.toml", ".ci/run", "model/pretrained/LATEST", "docs/heatmap.png"):
        assert (copy / name).read_bytes() == (ROOT / name).read_bytes()
        # make must not find the set-up out of date
        assert (copy / name).stat().st_mtime == (ROOT / name).stat().st_mtime
        assert (copy / name).stat().st_ino != (ROOT / name).stat().st_ino
    weights = next((ROOT / "model" / "pretrained").rglob("model.safetensors")).relative_to(ROOT)
    assert (copy / weights).stat().st_size == (ROOT / weights).stat().st_size
    assert not (copy / weights).is_symlink()  # a checkpoint must not hold one
    assert not (copy / "runs").exists()
    assert not (copy / ".git").exists()
    assert (copy / ".venv").resolve() == (ROOT / ".venv").resolve()


def test_a_block_that_fails_in_the_middle_fails(tmp_path: Path) -> None:
    assert run("false\ntrue\n", tmp_path, dict(os.environ)).returncode != 0
    assert run("touch made\nls\n", tmp_path, dict(os.environ)).stdout == "made\n"

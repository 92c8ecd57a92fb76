"""Every `sh` block of docs/ runs as written; what needs a GPU, hours or other machines is in `bash` blocks.

Those of operations.md need Docker: tests/operations/test_document.py runs them.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = [
    (path.name, block)
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.name != "operations.md"
    for block in re.findall(r"^```sh\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(BLOCKS)])
def test_a_block_runs(name: str, block: str) -> None:
    for directory in set(re.findall(r"runs/\w+", block)):
        shutil.rmtree(ROOT / directory, ignore_errors=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

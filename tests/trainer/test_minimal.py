"""`python -m trainer` needs torch and what requirements/trainer-minimal.txt names, and no other package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT, STEP_BYTES, arguments, environment, options, write_corpus

MINIMAL = (ROOT / "requirements" / "trainer-minimal.txt").read_text()
# Where a distribution is imported by another name, and what torch brings.
MODULES = {"markdown-it-py": "markdown_it"}
OF_TORCH = {"torch", "torchgen", "functorch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"}
PROGRAM = """
import importlib.metadata, sys
allowed = set(sys.argv.pop(1).split(","))
distributions = importlib.metadata.packages_distributions()
others = {name for name, owners in distributions.items() if set(owners) != {"sentiment-neuron"}}

class Only:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in others and top not in allowed and not top.startswith("_"):
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

sys.meta_path[:] = [Only(sys.meta_path[:])]
from trainer.command import train
train(prog_name="python -m trainer")
"""


@pytest.mark.slow
def test_a_run_needs_no_more(tmp_path: Path) -> None:
    names = re.findall(r"^([a-z0-9-]+)==", MINIMAL, re.MULTILINE)
    allowed = {MODULES.get(name, name.replace("-", "_")) for name in names} | OF_TORCH
    corpus = write_corpus(tmp_path / "corpus")
    words = [str(tmp_path / "run"), *arguments(options(corpus, total_bytes=4 * STEP_BYTES))]
    command = [sys.executable, "-c", PROGRAM, ",".join(sorted(allowed)), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    assert "no TensorBoard events are written" in done.stderr
    assert "held out: " in done.stderr
    assert "curve" not in done.stderr

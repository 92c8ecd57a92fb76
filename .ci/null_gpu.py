"""`python .ci/null_gpu.py PYTHON`: train, classify and generate on a CUDA that computes nothing.

PYTHON runs Python where such a CUDA is: it refuses what may not be recorded into a graph, and says `[nullgpu]` before
what it records. So this proves that a training window and all blocks of the engine are recorded whole, by the kernels
that are meant for a GPU, and no number. Fails where one of them is not.
"""

import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

WORDS = ("The", "kettle", "film", "was", "is", "good", "bad", "great", "awful", "and", "not", "really", "worth", "it")
RECORDED = re.compile(r"^\[nullgpu\] capture \d+: (\d+) nodes captured, 0 operations beside it", re.MULTILINE)
# What that CUDA refused, and what our own code says where a faster way failed and a slower one was taken.
REFUSED = re.compile(r"ILLEGAL|INVALID|not captured|[1-9]\d* operations beside|not fused|Traceback|Warning")

TRAIN = ("--units", "128", "--lanes", "16", "--window", "32", "--total-bytes", "5000")
TIMEOUT_S = 600
MAIN = ("-c", "from cli.main import main; main()")


def main(python: str) -> int:
    with tempfile.TemporaryDirectory() as place:
        reviews, corpus, run = (Path(place) / name for name in ("reviews.txt", "corpus", "run"))
        draw = random.Random(0)  # noqa: S311 - text, not a secret
        reviews.write_text("".join(f"{' '.join(draw.choices(WORDS, k=30))} {line}.\n" for line in range(4000)))
        build = [sys.executable, *MAIN, "corpus", "build", str(reviews), "--shards", "20", "--out", str(corpus)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT_S)  # noqa: S603 - our own command
        commands = {
            "a training window": ("-m", "trainer", str(run), "--corpus", str(corpus), *TRAIN),
            "classification": (*MAIN, "classify", "A great kettle."),
            "generation": (*MAIN, "generate", "The kettle", "--length", "20"),
        }
        failed = [name for name, command in commands.items() if not recorded(name, [python, *command])]
    return 1 if failed else 0


def recorded(name: str, command: list[str]) -> bool:
    """Whether a command does its work in graphs. Says what it recorded, or all that it said."""
    done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)  # noqa: S603 - our own commands
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    graphs = [int(nodes) for nodes in RECORDED.findall(said)]
    if done.returncode or not graphs or REFUSED.search(said):
        sys.stdout.write(f"{said}\n{name}: FAILS on a CUDA that computes nothing\n")
        return False
    sys.stdout.write(f"{name}: {len(graphs)} graphs of {sum(graphs):,} operations, nothing beside them\n")
    return True


sys.exit(main(sys.argv[1]))

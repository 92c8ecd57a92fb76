"""`python .ci/lock.py`: pin what `make` and the images install, in requirements/, as new as pyproject.toml allows.

The files are for every platform and Python of the project, with the hash of every archive. A file names only what those
before it do not: an image takes those that it needs, and `pip install --no-deps` installs no more than they name. Torch
is apart, in requirements/torch.txt, by its version alone: it has a build, and a hash, for each kind of device.

Needs uv on the PATH (`pip install uv`).
"""

import itertools
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = ROOT / "requirements"
# File -> extras of pyproject.toml. The gateway needs none.
LAYERS = {
    "api": (),
    "tracing": ("tracing",),
    "s3": ("s3",),
    "worker": ("worker",),
    "embedded": ("embedded",),
    "trainer": ("trainer",),
    "dev": ("dev",),
    "docs": ("docs",),
}
# Not installed beside every later file, so those name again what they need of it.
ASIDE = ("s3",)
# What `python -m trainer` needs beside torch, for a machine that has torch already and perhaps no network.
MINIMAL = ("click", "numpy", "prometheus-client", "pydantic", "rich", "safetensors")
# What compiles and interprets kernels without a GPU: the version that the CUDA build of torch brings.
KERNELS = "triton==3.7.1; sys_platform == 'linux'"
# Clients that people have, which the tests drive in an environment of their own: they need other versions than ours.
CLIENTS = (
    "celery[redis]",
    "flower",
    "langchain-openai",
    "llama-index-embeddings-openai-like",
    "llama-index-llms-openai-like",
)
# Torch, and what only its CUDA build needs.
NOT_LOCKED = ("torch", "triton", "nvidia-", "cuda-")


def resolve(*arguments: str) -> dict[str, str]:
    """Entry with its hashes by name, of everything that uv would install."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--universal", "--generate-hashes"]
    command += ["--fork-strategy", "fewest", "--python-version", "3.11", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own needs
    entries: dict[str, str] = {}
    name = ""
    for line in done.stdout.splitlines(keepends=True):
        if not line.startswith(" "):
            name = line.partition("==")[0]
        entries[name] = entries.get(name, "") + line  # one for each Python that needs a version of its own
    return entries


def resolve_names(*wanted: str) -> dict[str, str]:
    """As `resolve`, of requirements by name. wanted: may end in options."""
    names = list(itertools.takewhile(lambda word: not word.startswith("--"), wanted))
    requirements = FILES / "wanted.in"
    requirements.write_text("\n".join(names) + "\n")
    try:
        return resolve(str(requirements), *wanted[len(names) :])
    finally:
        requirements.unlink()


def write(file: str, entries: dict[str, str]) -> None:
    lines = ["# Written by .ci/lock.py.\n", *(entry for _, entry in sorted(entries.items()))]
    (FILES / f"{file}.txt").write_text("".join(lines))


def main() -> None:
    extras = [f"--extra={extra}" for layer in LAYERS.values() for extra in layer]
    resolved = resolve("pyproject.toml", *extras)
    entries = {name: entry for name, entry in resolved.items() if not name.startswith(NOT_LOCKED)}
    versions = FILES / "all.txt"
    write(versions.stem, entries)
    before: set[str] = set()
    for file, names in LAYERS.items():
        needed = resolve("pyproject.toml", *(f"--extra={extra}" for extra in names), "--constraint", str(versions))
        write(file, {name: entries[name] for name in needed.keys() & entries.keys() - before})
        if file not in ASIDE:
            before |= needed.keys()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    write("kernels", resolve_names(KERNELS))
    write("clients", resolve_names(*CLIENTS))
    write("build", resolve_names(*build, "wheel"))
    write("trainer-minimal", resolve_names(*MINIMAL, "--constraint", str(versions)))
    versions.unlink()


if __name__ == "__main__":
    main()

"""`python .ci/lock.py`: pin what the images install, in requirements/, to the newest that pyproject.toml allows today.

Each image's layers build on each other, so a file names only what the one before it does not.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = ROOT / "requirements"


def resolve(*wanted: str) -> dict[str, str]:
    """Version by name of everything that pip would install for `wanted`, except ourselves."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += wanted
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own package
    report = done.stdout
    found = (package["metadata"] for package in json.loads(report)["install"])
    versions = {entry["name"].lower().replace("_", "-"): entry["version"].partition("+")[0] for entry in found}
    versions.pop("sentiment-neuron", None)
    return versions


def write(name: str, versions: dict[str, str]) -> None:
    lines = ["# Written by .ci/lock.py."] + [f"{package}=={version}" for package, version in sorted(versions.items())]
    (FILES / f"{name}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    torch, everything = resolve("torch==2.13.0"), resolve(".[worker,trainer,tracing]")
    worker, api = resolve(".[worker,tracing]"), resolve(".[tracing]")
    pinned = {package: everything[package] for package in everything.keys() | torch.keys()}
    write("build", resolve("setuptools>=77", "wheel"))
    write("api", {package: pinned[package] for package in api})
    write("torch", {package: pinned[package] for package in torch})
    write("worker", {package: pinned[package] for package in worker.keys() - torch.keys()})
    write("trainer", {package: pinned[package] for package in everything.keys() - worker.keys()})


if __name__ == "__main__":
    main()

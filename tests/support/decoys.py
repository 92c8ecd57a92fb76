"""Files that are named like the rooms and raise when they are imported."""

from pathlib import Path

ROOMS = ("api", "cli", "contract", "engine", "evaluation", "model", "sentiment_neuron", "trainer", "worker")


def write_decoys(directory: Path) -> Path:
    """The directory, with a decoy of every room."""
    for name in ROOMS:
        (directory / f"{name}.py").write_text(f"raise SystemExit('the decoy {directory / name}.py was imported')\n")
    return directory

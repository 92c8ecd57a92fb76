"""Modules that are named like the project's packages and end the process that imports them."""

from pathlib import Path

_ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent.name for path in _ROOT.glob("*/__init__.py"))


def write_decoys(directory: Path) -> Path:
    """The directory, with a decoy of every package: half of them are files, half are folders."""
    for number, name in enumerate(PACKAGES):
        place = directory / f"{name}.py" if number % 2 else directory / name / "__init__.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"raise SystemExit('the decoy {place} was imported')\n")
    return directory

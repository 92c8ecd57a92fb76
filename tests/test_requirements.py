"""What is installed: every archive by its hash, each package once, in the versions that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILES = sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.stem != "torch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)[^\n]*\n((?:    --hash=\S+(?: \\)?\n)*)", re.MULTILINE)
# The files that are installed together before it, and it: `make` and the Dockerfile take them in this order.
ORDER = ("api", "tracing", "worker", "embedded", "trainer", "dev", "docs")
# Beside the first two, in the gateway's image alone; dev has its packages as well.
S3 = "s3"


def pins(file: str) -> dict[str, set[str]]:
    """Versions by package; more than one where Pythons need different ones."""
    found: dict[str, set[str]] = {}
    for name, version, _ in ENTRY.findall((ROOT / "requirements" / f"{file}.txt").read_text()):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_has_its_version_and_hashes(path: Path) -> None:
    comment, _, rest = path.read_text().partition("\n")
    assert comment.startswith("#")
    assert ENTRY.sub("", rest) == ""
    assert all("--hash=sha256:" in hashes for _, _, hashes in ENTRY.findall(rest))


def test_no_package_is_in_two_files() -> None:
    assert {path.stem for path in FILES} == {*ORDER, S3, "build", "clients", "kernels", "trainer-minimal"}
    names = [name for file in ORDER for name in pins(file)]
    assert sorted(names) == sorted(set(names))
    assert not pins(S3).keys() & (pins("api").keys() | pins("tracing").keys())
    assert all(
        version == pins(file)[name] for file in ORDER for name, version in pins(S3).items() if name in pins(file)
    )


@pytest.mark.parametrize("file", [*ORDER, S3])
def test_a_file_and_those_before_it_hold_what_its_extra_asks_for(file: str) -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    together = ("api", "tracing", S3) if file == S3 else ORDER[: ORDER.index(file) + 1]
    pinned = {name: versions for before in together for name, versions in pins(before).items()}
    asked = list(map(Requirement, project["dependencies"] if file == "api" else extras[file]))
    for need in asked:
        if need.name == PROJECT["project"]["name"]:
            asked += [Requirement(other) for extra in need.extras for other in extras[extra]]
        elif need.name == "torch":
            assert (ROOT / "requirements" / "torch.txt").read_text() == f"torch{need.specifier}\n"
        else:
            name = canonicalize_name(need.name)
            assert pinned[name], need
            assert all(version in need.specifier for version in pinned[name]), need


def test_make_and_the_images_take_no_more_than_these() -> None:
    for recipe in (ROOT / "Makefile", ROOT / "Dockerfile"):
        named = set(re.findall(r"requirements/(\w+)\.txt", recipe.read_text()))
        assert named <= {*ORDER, S3, "build", "clients", "kernels", "torch"}, recipe
        # Torch alone has a hash for each index that it comes from.
        installs = re.findall(r"(?:\$\(PIP\) |RUN pip (?!wheel)|&& pip |    pip )(?:[^\n\\]|\\\n)*", recipe.read_text())
        assert len(installs) > 4
        for install in installs:
            ours = "--editable ." in install or "/wheels/*.whl" in install
            assert ours or "torch.txt" in install or "--require-hashes" in install, install

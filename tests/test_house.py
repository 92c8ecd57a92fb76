"""The plan of the house: who may import whom, how long a file may be, and what is found nowhere."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
SOURCES = [path for name in PACKAGES if name != "tests" for path in sorted((ROOT / name).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
MAX_LINES = 320
MAX_README_LINES = 180


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_import_rules_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_import_rules_know_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert sorted(settings["importlinter"]["root_packages"]) == [
        name for name in PACKAGES if name not in ("monitoring", "tests")
    ]
    assert sorted(settings["mypy"]["packages"]) == PACKAGES


def test_nothing_is_ever_unpickled() -> None:
    forbidden = re.compile(r"\bpickle\b(?!=False)|torch\.load\(|allow_pickle=True|np\.load\((?!.*allow_pickle=False)")
    allowed = re.compile(r"[Nn]ever pickle|no pickle|not pickle")
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not forbidden.search(line) or allowed.search(line), f"{path}, line {number}: {line}"


def test_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert [path for path in [*SOURCES, *TESTS] if path.stem in vague] == []


def test_every_module_says_what_it_is() -> None:
    for path in SOURCES:
        assert path.read_text().startswith('"""'), f"{path} has no docstring"


def test_no_file_has_grown_too_long() -> None:
    assert [name_of(path) for path in SOURCES if len(path.read_text().splitlines()) > MAX_LINES] == []


def test_folders_of_tests_mirror_the_packages() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in TESTS if path.parent != ROOT / "tests"}
    assert folders - set(PACKAGES) == {"faults", "operations", "support"}


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_files_named_in_docstrings_and_comments_exist(path: Path) -> None:
    assert missing(words_of(path.read_text()), path.parent) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_named_in_pages_exist(path: Path) -> None:
    without_labels = re.sub(r"\[[^]]*\]\(", "(", path.read_text())  # of links, whose addresses count
    assert missing(without_labels, path.parent) == []


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_in_pages_lead_somewhere(path: Path) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^\s)#]*)(?:#([^\s)]+))?\)", path.read_text()):
        page = path.parent / target if target else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and MkDocs make them."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def words_of(source: str) -> str:
    """Docstrings and comments of a module."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def missing(words: str, folder: Path) -> list[str]:
    """The Python files that `words` name and that are not there: from the root, or from `folder`."""
    names = re.findall(r"(?<![\w/.-])(?:\.\./)*[a-z_]\w*(?:/\w+)*\.py\b", words)
    return [name for name in names if not (ROOT / name).is_file() and not (folder / name).is_file()]

"""The wheel, made as the Dockerfile makes it: of what .dockerignore lets through, with exactly the packages."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "api",
    "cli",
    "contract",
    "engine",
    "evaluation",
    "heatmaps",
    "model",
    "recurrent",
    "sentiment_neuron",
    "texts",
    "trainer",
    "worker",
)
# What the gateway's image keeps of them: the Dockerfile takes the others out.
GATEWAY = ("api", "cli", "contract", "heatmaps", "texts")


def context(directory: Path) -> Path:
    """What the Dockerfile's `COPY . .` sees."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    directory.mkdir()
    for name in [line.removeprefix("!") for line in lines if line.startswith("!")]:
        source, target = ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return directory


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, context(directory / "context"))
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """It alone, in a directory; its dependencies are those of this Python."""
    directory = wheel.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--target", directory, wheel)
    return directory


def neuron(directory: Path, *arguments: str, without: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """The command as installed in `directory`, in an empty working directory. without: modules that are not there."""
    script = f"import sys; sys.modules.update(dict.fromkeys({without})); from cli.main import main; main()"
    cwd = directory.parent / "empty"
    cwd.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
    )


def test_it_holds_every_module_of_the_packages_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    shipped = ROOT / "model" / "pretrained"
    model = {str(path.relative_to(ROOT)) for path in shipped.rglob("*") if path.is_file()}
    assert {str(Path("model/pretrained") / name) for name in ("LATEST", "README.md")} < model
    assert any(name.endswith("model.safetensors") for name in model)
    assets = {
        *(ROOT / "heatmaps/templates").glob("*.[hs]*"),
        *(ROOT / "api/page").iterdir(),
        ROOT / "api/http/page.html",
    }
    modules |= {str(path.relative_to(ROOT)) for path in assets}
    assert held == modules | model | {
        "contract/py.typed",
        "sentiment_neuron/py.typed",
    }


def test_what_measures_is_said_to_be_elsewhere(installed: Path) -> None:
    for arguments in (["bench", "service"], ["bench", "service", "--seconds", "1"]):
        done = neuron(installed, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: `neuron bench service` needs benchmarks/, which a checkout")
        assert str(installed) in done.stderr
    assert neuron(installed, "bench", "--help").returncode == 0


def test_the_front_door_opens(installed: Path) -> None:
    done = neuron(installed, "classify", "A delightful film.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("positive")


def test_what_the_gateways_image_keeps_is_enough(installed: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    taken_out = dockerfile.partition("for unused in ")[2].partition(";")[0].split()
    assert sorted(taken_out) == sorted(set(PACKAGES) - set(GATEWAY))
    gateway = installed.parent / "gateway"
    for package in GATEWAY:
        shutil.copytree(installed / package, gateway / package)
    missing = (*taken_out, "torch", "safetensors", "sklearn", "celery")
    for command in ("api", "jobs", "key"):
        done = neuron(gateway, command, "--help", without=missing)
        assert done.returncode == 0, done.stderr
    script = f"import sys; sys.modules.update(dict.fromkeys({missing})); import api.server, api.app"
    subprocess.run([sys.executable, "-P", "-c", script], env=os.environ | {"PYTHONPATH": str(gateway)}, check=True)
    done = neuron(gateway, "settings", without=missing)
    assert done.stderr == "Error: `neuron settings` needs worker/, which is not here\n"

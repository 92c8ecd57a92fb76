"""`neuron trace` on a tiny checkpoint: heat maps in a terminal, in a pipe and as a page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from contract.jobs import TraceJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from heatmaps.cells import heat_maps
from heatmaps.html import html_page
from heatmaps.picture import svg
from model.checkpoints import volumes

Neuron = Callable[..., Result]


@pytest.mark.parametrize("arguments", [[], ["--unit", 3, "--unit", 5, "--unit", 3]])
def test_trace_shows_what_a_worker_answers(
    neuron: Neuron, volume: Path, tmp_path: Path, arguments: list[object]
) -> None:
    text, page = "It was fine &amp; <b>", tmp_path / "page.html"
    picture = tmp_path / "picture.svg"
    result = neuron("trace", text, "--checkpoint", volume, "--html", page, "--svg", picture, *arguments)
    assert result.exit_code == 0
    served = serving.load(volumes.latest(volume), "auto", "auto", 1)
    engine = Engine(1)
    engine.start()
    units = [3, 5] if arguments else None
    job = TraceJob(id="a-job-of-the-test", timeout_s=60.0, text=text, units=units)
    answer = execute(job, served, engine)
    engine.close()
    maps = heat_maps(text, answer)
    assert page.read_text(encoding="utf-8") == html_page(text, maps, "tiny, step 12")
    assert picture.read_text(encoding="utf-8") == svg(text, maps, "tiny, step 12")
    assert result.stdout.count("after the whole text") == len(maps)
    for heat_map in maps:
        assert f"{heat_map.name}: {heat_map.final:+.2f} after the whole text" in result.stdout
        for word, value in heat_map.words:
            assert f"{value:+8.2f}  {word}\n" in result.stdout


def test_trace_in_colour(neuron: Neuron, volume: Path) -> None:
    colours = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm"}
    result = neuron("trace", "--checkpoint", volume, input="nice æ\nday\n", env=colours)
    assert len(re.findall(r"\x1b\[38;2;17;17;17;48;2;\d+;\d+;\d+m", result.stdout)) == 10 + 21
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout).splitlines()
    assert plain[1] == "nice æ day"
    assert plain[2].startswith("-1.00 ")
    assert plain[2].endswith(" +1.00")
    without = neuron("trace", "nice", "--checkpoint", volume, env=colours | {"NO_COLOR": "1"})
    assert "48;2" not in without.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--unit", "32"], "unit 32 does not exist: the model has units 0 to 31"),
        (["a", "--unit", "-1"], "-1 is not in the range"),
        ([" "], "text: the text is empty"),
        ([], "text: the text is empty"),
        (["\udcff"], "not valid Unicode"),
    ],
)
def test_trace_refuses(neuron: Neuron, volume: Path, arguments: list[str], message: str) -> None:
    result = neuron("trace", "--checkpoint", volume, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_a_page_that_cannot_be_written(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    result = neuron("trace", "a", "--checkpoint", volume, "--html", tmp_path / "nowhere" / "page.html")
    assert result.exit_code == 1
    assert "cannot be written: No such file" in result.stderr

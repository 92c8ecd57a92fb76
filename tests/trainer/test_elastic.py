"""Under a real torchrun: a rank that is killed, and one that is asked to stop."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import wait_until
from tests.support.runs import LANES, WINDOW, arguments, ignore, logged, options, torchrun, write_corpus
from trainer.run.options import Options
from trainer.run.snapshot import TENSORS, snapshots, step_of
from trainer.run.train import Run

STEPS = 160


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Options:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "built")
    return options(corpus, total_bytes=STEPS * LANES * WINDOW, snapshot_every_s=0.1)


def ranks(launcher: "Popen[bytes]") -> dict[int, int]:
    """The processes that torchrun has started and that train by now: rank -> process id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            environ = place.joinpath("environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == launcher.pid:
            found |= {int(entry[5:]): int(place.name) for entry in environ if entry.startswith(b"RANK=")}
    return found


def end(launcher: "Popen[bytes]") -> None:
    if launcher.poll() is None:
        launcher.terminate()
        launcher.wait(180)


def newest(where: Path) -> int:
    return max(map(step_of, snapshots(where)), default=0)


@pytest.mark.slow
def test_a_killed_rank_costs_what_came_after_the_last_snapshot(chosen: Options, tmp_path: Path) -> None:
    straight = torchrun(
        2, "-m", "trainer", str(tmp_path / "straight"), *arguments(chosen), log=tmp_path / "straight.txt"
    )
    assert straight.wait(180) == 0, (tmp_path / "straight.txt").read_text()

    log, where = tmp_path / "killed.txt", tmp_path / "killed" / "snapshots"
    command = ["-m", "trainer", str(tmp_path / "killed"), "--resume", *arguments(chosen)]
    killed = torchrun(2, *command, restarts=3, log=log)
    try:
        for victim in (1, 0):
            before = newest(where)
            wait_until(lambda: newest(where) > before, what=f"a snapshot after step {before}")  # noqa: B023
            assert killed.poll() is None, log.read_text()
            first = ranks(killed)
            assert sorted(first) == [0, 1]
            os.kill(first[victim], signal.SIGKILL)
            wait_until(lambda: not set(ranks(killed).values()) & set(first.values()), what="new processes")  # noqa: B023
        assert killed.wait(180) == 0, log.read_text()
    finally:
        end(killed)
    found = load_file(where / f"step-{STEPS}" / TENSORS)
    expected = load_file(tmp_path / "straight" / "snapshots" / f"step-{STEPS}" / TENSORS)
    for name in expected.keys() - {"random.cpu"}:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_the_same_step(chosen: Options, tmp_path: Path) -> None:
    log, directory = tmp_path / "torchrun.txt", tmp_path / "run"
    endless = replace(chosen, total_bytes=10**12)
    launcher = torchrun(2, "-m", "trainer", str(directory), *arguments(endless), log=log)
    try:
        wait_until(lambda: newest(directory / "snapshots"), what="a snapshot")
        os.kill(ranks(launcher)[1], signal.SIGTERM)
        assert launcher.wait(180) == 0, log.read_text()
    finally:
        end(launcher)
    last = logged(directory)[-1]["step"]
    assert [path.name for path in snapshots(directory / "snapshots")][-1] == f"step-{last}"
    assert Run.resume(directory, ignore).progress.step == last

"""Two gloo processes train as one does, resume to the bit, and take over from one process and give back to it."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import (
    STEP_BYTES,
    WINDOW,
    assert_identical,
    everything,
    ignore,
    options,
    torchrun,
    write_labelled_corpus,
)
from trainer.corpus.corpus import Corpus
from trainer.run.distributed import Gradients, World
from trainer.run.lanes import Lanes
from trainer.run.options import TrainingError
from trainer.run.snapshot import TENSORS, read_progress
from trainer.run.train import Run

pytestmark = pytest.mark.slow  # torchrun starts first

LANES = 4
STEPS = 50

# What two processes do; one torchrun for all tests, for its start is most of the time.
SCRIPT = """
    import json, os, sys
    from pathlib import Path

    import torch
    from trainer.run.distributed import World
    from trainer.run.options import Options, TrainingError
    from trainer.run.train import Run

    directory, options = Path(sys.argv[1]), Options(**json.loads(sys.argv[2]))
    found = {}

    def ignore(_):
        pass

    with World.join() as world:
        run = Run.create(directory / "straight", options, ignore, world)
        steps = []
        for number in range(50):
            if number in (10, 25):
                run.save()
            steps.append(run.step())
        found["steps"], found["validation"] = steps, list(vars(run.validate()).values())

        run = Run.create(directory / "halves", options, ignore, world)
        for number in range(5):
            run.step()
        run.save()
        torch.rand(world.rank + 1)
        run = Run.resume(directory / "halves", ignore, world)
        for number in range(5):
            run.step()
        run.save()

        run = Run.resume(directory / "of_one", ignore, world)
        found["after_one"] = [run.step() for _ in range(25)]

        run = Run.create(directory / "poisoned", options, ignore, world)
        run.step()
        if world.rank == 1:
            hook = run.model.output_b.register_hook(lambda gradient: gradient * float("nan"))
        before = run.model.output_b.detach().clone()
        run.step()
        same = torch.equal(before, run.model.output_b) and not run.state.cell.any()
        found["skipped"] = world.any(not (same and run.progress.skipped_steps == 1)) == [False]

        run = Run.create(directory / "stopped", options, ignore, world)
        if world.rank == 1:
            run.stop()
        run.train()
        found["stopped_at"] = run.progress.step

        try:
            Run.create(directory / "stopped", options, ignore, world)
        except TrainingError as error:
            found["refused"] = str(error)
    # Threads of gloo that are left now may abort the process as it ends.
    names = [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]
    assert not any("gloo" in name for name in names), names
    if world.rank == 0:
        (directory / "found.json").write_text(json.dumps(found))
"""


class Both(NamedTuple):
    directory: Path
    corpus: Path
    found: dict[str, Any]  # by two processes
    alone: Run  # the same run in one process, after all its steps
    steps: list[tuple[float, float]]  # bits per byte and norm of each


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    directory = tmp_path_factory.mktemp("distributed")
    corpus = write_labelled_corpus(directory / "corpus", shards=11)
    chosen = options(corpus, lanes=LANES, total_bytes=80 * LANES * WINDOW, label_weight=0.5, unit_weight=0.5)
    alone = Run.create(directory / "of_one", chosen, ignore)
    steps = []
    for number in range(STEPS):
        if number == 25:
            alone.save()
        steps.append(alone.step())
    (directory / "script.py").write_text(textwrap.dedent(SCRIPT))
    arguments = [str(directory / "script.py"), str(directory), json.dumps(asdict(chosen))]
    log = directory / "torchrun.txt"
    assert torchrun(2, *arguments, log=log).wait(180) == 0, log.read_text()
    return Both(directory, corpus, json.loads((directory / "found.json").read_text()), alone, steps)


def test_two_processes_train_as_one(both: Both) -> None:
    assert len(both.found["steps"]) == STEPS
    for (loss, norm), (expected, expected_norm) in zip(both.found["steps"], both.steps, strict=True):
        assert loss == pytest.approx(expected, abs=1e-4)
        assert norm == pytest.approx(expected_norm, rel=1e-3)
    assert both.found["steps"][-1][0][0] < both.found["steps"][0][0][0] - 2, "it learns, so a wrong update would show"
    assert both.found["validation"] == pytest.approx(list(vars(both.alone.validate()).values()), abs=1e-4)


def test_a_snapshot_of_two_is_one_of_all_lanes(both: Both) -> None:
    again = Run.create(both.directory / "ten", both.alone.options, ignore)
    for _ in range(10):
        again.step()
    of_two = both.directory / "straight" / "snapshots" / "step-10"
    of_one = again.save()
    _, cursors, _ = read_progress(of_two)
    assert cursors == read_progress(of_one)[1]
    found, expected = load_file(of_two / TENSORS), load_file(of_one / TENSORS)
    assert found.keys() == expected.keys()
    for name in found.keys() - {"random.cpu"}:
        assert torch.allclose(found[name], expected[name], atol=1e-4), name


def test_two_processes_resume_to_the_bit(both: Both) -> None:
    straight = load_file(both.directory / "straight" / "snapshots" / "step-10" / TENSORS)
    halves = load_file(both.directory / "halves" / "snapshots" / "step-10" / TENSORS)
    assert straight.keys() == halves.keys()
    for name in straight.keys() - {"random.cpu"}:
        assert torch.equal(straight[name], halves[name]), name


def test_one_process_goes_on_where_two_stopped(both: Both) -> None:
    run = Run.resume(both.directory / "straight", ignore)
    assert run.progress.step == 25
    for expected, _ in both.found["steps"][25:]:
        assert run.step()[0] == pytest.approx(expected, abs=1e-4)


def test_two_processes_go_on_where_one_stopped(both: Both) -> None:
    assert len(both.found["after_one"]) == 25
    for (loss, _), (expected, _) in zip(both.found["after_one"], both.steps[25:], strict=True):
        assert loss == pytest.approx(expected, abs=1e-4)


def test_a_gradient_that_is_not_finite_in_one_is_skipped_by_both(both: Both) -> None:
    assert both.found["skipped"]


def test_one_that_is_asked_to_stop_stops_both(both: Both) -> None:
    assert both.found["stopped_at"] == 0
    assert (both.directory / "stopped" / "snapshots" / "step-0").is_dir()
    assert "holds a run already" in both.found["refused"]


FAILING = """
    import torch
    import torch.distributed as dist
    from trainer.run.distributed import World

    try:
        with World.join() as world:
            if world.rank == 1:
                raise ValueError("a shard is gone")
            world.mean(torch.ones(1))
    except ValueError:
        # Nothing has waited for the process that waits for us.
        assert dist.is_initialized()
        raise
"""


def test_an_error_in_one_process_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(FAILING))
    log = tmp_path / "torchrun.txt"
    assert torchrun(2, str(tmp_path / "script.py"), log=log).wait(180) != 0
    assert "ValueError: a shard is gone" in log.read_text()
    assert "AssertionError" not in log.read_text()


def test_lanes_that_cannot_be_shared_are_refused(both: Both) -> None:
    with pytest.raises(TrainingError, match="4 lanes cannot be shared equally by 3 processes"):
        Run(both.directory / "three", both.alone.options, ignore, World(rank=0, size=3))


def test_one_gpu_for_all_processes_is_refused() -> None:
    with pytest.raises(TrainingError, match="--device cuda:1 is one GPU for all 2 processes: --device cuda gives each"):
        World(rank=0, size=2).device("cuda:1")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_lane_is_the_same_stream_whoever_reads_it(both: Both, size: int) -> None:
    corpus = Corpus(both.corpus)
    everyone = Lanes(corpus, 6, WINDOW)
    parts = [Lanes(corpus, 6, WINDOW, World(rank, size).share(6)) for rank in range(size)]
    for _ in range(60):
        block, begins, _ = everyone.next()
        pieces = [part.next() for part in parts]
        assert (torch.cat([torch.from_numpy(piece[0]) for piece in pieces], 1).numpy() == block).all()
        assert [begin for piece in pieces for begin in piece[1]] == list(begins)


def test_accumulated_windows_are_one_update(both: Both) -> None:
    """Against two windows by hand: the gradient is their mean, the state goes from one to the next."""
    chosen = options(both.corpus, accumulate=2, total_bytes=40 * 2 * STEP_BYTES)
    run, other = (Run.create(both.directory / name, chosen, ignore) for name in ("accumulated", "by_hand"))
    run.step()
    assert run.progress.bytes_seen == 2 * STEP_BYTES == chosen.update_bytes
    weights = list(other.model.parameters())
    state, sums = other.state, [torch.zeros_like(weight) for weight in weights]
    for _ in range(2):
        window, targets, _ = other.lanes.next()
        loss, state = other.model.loss(window, targets.bytes, state, other._window)
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient / 2
    for weight, total in zip(run.model.parameters(), sums, strict=True):
        assert weight.grad is not None
        limit = min(1.0, chosen.clip_norm / float(torch.cat([part.flatten() for part in sums]).norm()))
        assert torch.allclose(weight.grad, total * limit, atol=1e-6)
    assert torch.equal(run.state.cell, state.cell)
    before = everything(run)
    run.save()
    again = Run.resume(both.directory / "accumulated", ignore)
    assert_identical(again, run)
    run.step(), again.step()
    assert_identical(again, run)
    assert not torch.equal(before["output_w"], run.model.output_w)


def test_the_norm_of_many_gradients_is_exact() -> None:
    model = torch.nn.Linear(3000, 3000, bias=False)
    gradients = Gradients(model, World())
    (model.weight.sum() * 1e-3).backward()  # type: ignore[no-untyped-call]
    _, norm = gradients.average(1)
    assert norm == pytest.approx(3.0, rel=1e-5)
    gradients.clip(norm, 1.5)
    assert gradients.average(1)[1] == pytest.approx(1.5, rel=1e-5)
    gradients.zero()
    assert gradients.average(1) == ([0.0], 0.0)

"""A run learns, and a run that was stopped and resumed is to the bit the one that was not."""

import copy
import json
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.network import cells
from model.network.cells import CellName
from model.network.sequence import Window
from tests.support.runs import (
    LANES,
    ROOT,
    STEP_BYTES,
    WINDOW,
    assert_identical,
    everything,
    ignore,
    options,
    write_corpus,
)
from trainer.corpus.corpus import Corpus, CorpusError
from trainer.run import snapshot
from trainer.run.lanes import Lanes
from trainer.run.options import TrainingError
from trainer.run.snapshot import Progress, snapshots
from trainer.run.train import Run
from trainer.run.validation import Validated


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "built")


# ---- learning


@pytest.mark.parametrize("cell", ["mlstm", "lstm", "gru"])
def test_a_tiny_run_learns(corpus: Path, tmp_path: Path, cell: CellName) -> None:
    chosen = options(corpus, cell=cell, units=24, lanes=4, total_bytes=250 * 4 * WINDOW, learning_rate=0.02)
    run = Run.create(tmp_path / "run", chosen, ignore)
    before = run.validate()
    assert before.bits_per_byte == pytest.approx(8.0, abs=0.1)
    losses = [run.step()[0][0] for _ in range(250)]
    assert sum(losses[-20:]) / 20 < 2.5
    assert run.validate().bits_per_byte < 2.5
    assert run.progress == Progress(step=250, bytes_seen=250 * 4 * WINDOW)


def test_the_state_is_carried_and_zeroed_where_a_shard_begins(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    lanes, runner = Lanes(Corpus(corpus), LANES, WINDOW), Window("mlstm", torch.float32, fuse=False)
    begun = 0
    for _ in range(45):
        block, begins, _ = lanes.next()
        begun += int(begins.sum())
        cell, hidden = run.state.cell.clone(), run.state.hidden.clone()
        cell[begins], hidden[begins] = 0.0, 0.0
        text = torch.from_numpy(block.astype(np.int64))
        with torch.no_grad():
            loss, after = run.model.loss(text[:-1], text[1:], cells.State(cell, hidden), runner)
        assert run.step()[0] == [float(loss)]
        assert torch.equal(run.state.cell, after.cell)
        assert torch.equal(run.state.hidden, after.hidden)
    assert begun >= 6, "every lane begins its first shard and two more"


def test_gradients_are_clipped(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", options(corpus, clip_norm=0.01), ignore)
    norms: list[float] = []
    update = run.optimizers[0].step

    def look() -> None:
        gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        update()

    monkeypatch.setattr(run.optimizers[0], "step", look)
    _, norm = run.step()
    assert norm > 0.02, "the norm before clipping is reported"
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_the_learning_rate_warms_up_and_falls_to_zero(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, learning_rate=1.0, warmup_steps=4), ignore)
    used = []
    for _ in range(40):
        expected = 1.0 * run.schedule()
        run.step()
        used.append(run.optimizers[0].param_groups[0]["lr"])
        assert used[-1] == expected
    wanted = [min(1.0, (step + 1) / 4) * (1 - step / 40) for step in range(40)]
    assert used == pytest.approx(wanted, rel=1e-12)
    assert run.schedule() == 0.0
    run.step()
    assert run.schedule() == 0.0  # never below


def test_without_warm_up_the_first_rate_is_the_highest(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, warmup_steps=0), ignore)
    assert run.schedule() == 1.0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(corpus: Path, tmp_path: Path, poison: float) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    run.step()
    before = everything(run)
    hook = run.model.output_b.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([65]), poison))
    _, norm = run.step()
    assert not np.isfinite(norm)
    assert run.progress == Progress(step=2, bytes_seen=2 * STEP_BYTES, skipped_steps=1)
    assert not run.state.cell.any()  # nothing of the poisoned step is carried on
    after = everything(run)
    for name in before.keys() - {"state.cell", "state.hidden"}:
        assert torch.equal(after[name], before[name]), name
    hook.remove()
    _, norm = run.step()
    assert np.isfinite(norm)
    assert run.progress.skipped_steps == 1
    assert not torch.equal(run.model.output_b, before["output_b"])
    assert all(torch.isfinite(tensor).all() for tensor in everything(run).values())


# ---- snapshots and resume


@pytest.mark.parametrize("cell", ["mlstm", "lstm", "gru"])
def test_ten_steps_are_five_and_five(corpus: Path, tmp_path: Path, cell: CellName) -> None:
    straight = Run.create(tmp_path / "straight", options(corpus, cell=cell), ignore)
    first = Run.create(tmp_path / "run", options(corpus, cell=cell), ignore)
    for _ in range(10):
        straight.step()
    for _ in range(5):
        first.step()
    first.save()
    torch.rand(3)  # somebody else's draw
    second = Run.resume(tmp_path / "run", ignore)
    assert_identical(second, first)
    for _ in range(5):
        second.step()
    assert_identical(second, straight)
    assert straight.step() == second.step()


def test_resume_where_lanes_change_their_shards(corpus: Path, tmp_path: Path) -> None:
    straight = Run.create(tmp_path / "straight", options(corpus), ignore)
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    for number in range(50):
        straight.step()
        run.step()
        if number % 7 == 0:
            run.save()
            run = Run.resume(tmp_path / "run", ignore)
    assert max(cursor.shard for cursor in run.lanes.cursors) >= 2
    assert_identical(run, straight)


def test_train_that_was_stopped_ends_as_one_that_was_not(corpus: Path, tmp_path: Path) -> None:
    chosen = options(corpus, validate_every_bytes=4 * STEP_BYTES, total_bytes=20 * STEP_BYTES)
    straight = Run.create(tmp_path / "straight", chosen, ignore)
    straight.train()
    stopped: Run

    def stop_at_8(record: dict[str, Any]) -> None:
        if record["step"] == 8:
            stopped.stop()

    stopped = Run.create(tmp_path / "run", chosen, stop_at_8)
    stopped.train()
    assert stopped.progress.step == 8
    assert [path.name for path in snapshots(tmp_path / "run" / "snapshots")] == ["step-4", "step-8"]
    records: list[dict[str, Any]] = []
    resumed = Run.resume(tmp_path / "run", records.append)
    resumed.train()
    assert resumed.progress.bytes_seen == 20 * STEP_BYTES
    assert_identical(resumed, straight)
    assert [record["step"] for record in records] == [12, 16, 20]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("straight", "run")]
    held_out = [{r["step"]: r["validation_bits_per_byte"] for r in map(json.loads, log)} for log in logs]
    assert held_out[0] == held_out[1]
    again = Run.resume(tmp_path / "run", ignore)
    again.train()  # nothing is left to do
    assert_identical(again, straight)


def test_a_run_resumes_in_another_place(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "here", options(corpus), ignore)
    run.step()
    run.save()
    (tmp_path / "here").rename(tmp_path / "there")
    assert_identical(Run.resume(tmp_path / "there", ignore), run)


def test_only_the_newest_snapshots_are_kept(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, keep=2), ignore)
    for _ in range(12):
        run.step()
        run.save()
    kept = [path.name for path in snapshots(tmp_path / "run" / "snapshots")]
    assert kept == ["step-11", "step-12"]  # in the order of their numbers
    assert sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir()) == kept


def test_half_a_snapshot_is_never_resumed_from(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    run.step()
    run.save()
    saved = copy.deepcopy(everything(run))
    run.step()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fail)
        with pytest.raises(OSError, match="no space left"):
            run.save()
    # As kill -9 leaves it: the temporary directory is still there.
    (tmp_path / "run" / "snapshots" / ".step-2.0123.partial").mkdir()
    resumed = Run.resume(tmp_path / "run", ignore)
    assert resumed.progress.step == 1
    assert all(torch.equal(tensor, saved[name]) for name, tensor in everything(resumed).items())


def test_saving_twice_at_one_step_is_one_snapshot(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    run.step()
    assert run.save() == run.save()


def test_resume_can_move_the_end(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, total_bytes=10 * STEP_BYTES, warmup_steps=0), ignore)
    for _ in range(10):
        run.step()
    run.save()
    assert run.schedule() == 0.0
    longer = Run.resume(tmp_path / "run", ignore, total_bytes=40 * STEP_BYTES)
    assert longer.schedule() == pytest.approx(0.75)
    assert json.loads((tmp_path / "run" / "options.json").read_text())["total_bytes"] == 40 * STEP_BYTES
    again = Run.resume(tmp_path / "run", ignore)
    assert again.options == longer.options == replace(run.options, total_bytes=40 * STEP_BYTES)


def test_a_run_by_the_clock_ends_by_it_and_goes_on_by_it(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, total_seconds=1e9, total_bytes=1, warmup_steps=0), ignore)
    threading.Timer(0.3, run.stop).start()
    run.train(peak_flops=1e12)
    took = run.progress.seconds
    assert run.progress.bytes_seen > 1
    resumed = Run.resume(tmp_path / "run", ignore, total_seconds=2 * took)
    assert resumed.schedule() == pytest.approx(0.5, abs=0.01)
    resumed.train(peak_flops=1e12)
    assert resumed.progress.seconds >= 2 * took
    assert resumed.schedule() == 0.0
    assert resumed.progress.validation_step == resumed.progress.step
    by_bytes = Run.resume(tmp_path / "run", ignore, total_bytes=2 * resumed.progress.bytes_seen)
    assert by_bytes.options.total_seconds == 0
    assert by_bytes.schedule() == 0.5


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_shard_that_is_gone_ends_the_run_where_it_was(tmp_path: Path, accumulate: int) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    chosen = options(corpus, accumulate=accumulate, snapshot_every_s=0.0)  # one is always being written
    run = Run.create(tmp_path / "run", chosen, ignore)
    second = corpus / run.lanes._lanes._rounds[0][1].file
    second.rename(tmp_path / "elsewhere")
    with pytest.raises((OSError, CorpusError), match=second.name):
        run.train(peak_flops=1e12)
    (tmp_path / "elsewhere").rename(second)
    resumed = Run.resume(tmp_path / "run", ignore)
    assert resumed.progress.step > 10 // accumulate
    undisturbed = Run.create(tmp_path / "other", chosen, ignore)
    for one in (resumed, undisturbed):
        one.train(peak_flops=1e12)
    assert_identical(resumed, undisturbed)


def test_a_run_before_its_first_snapshot_resumes_at_its_start(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    assert_identical(Run.resume(tmp_path / "run", ignore), run)


# ---- the edges


def test_a_run_that_publishes_needs_to_be_handed_how(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, publish_to=str(tmp_path / "volume")), ignore)
    with pytest.raises(ValueError, match="hand in how, as `publish`"):
        run.train(peak_flops=1e12)
    assert run.progress.step == 0


def test_create_refuses_an_existing_run(corpus: Path, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", options(corpus), ignore)
    before = (tmp_path / "run" / "options.json").read_text()
    with pytest.raises(TrainingError, match="holds a run already"):
        Run.create(tmp_path / "run", options(corpus, units=8), ignore)
    assert (tmp_path / "run" / "options.json").read_text() == before


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        Run.resume(tmp_path, ignore)


def test_a_validation_shard_that_is_too_small_is_refused_at_the_start(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds 312 bytes, too few for 6 lanes of a window of 64, 385: lower --l"):
        Run.create(tmp_path / "run", options(corpus, lanes=6, window=64), ignore)
    assert not (tmp_path / "run" / "options.json").exists()


def test_many_lanes_validate_on_a_window_each(corpus: Path, tmp_path: Path) -> None:
    """The default of --validation-bytes is less than that of 2,048 lanes of 256 bytes."""
    few, enough = (
        Run.create(tmp_path / name, options(corpus, lanes=6, validation_bytes=size), ignore)
        for name, size in (("few", 6 * WINDOW), ("enough", 6 * WINDOW + 1))
    )
    assert few.validate() == enough.validate()


def test_validation_is_deterministic_and_touches_nothing(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    for _ in range(3):
        run.step()
    before, cursors = everything(run), copy.deepcopy(run.lanes.cursors)
    gradients = [parameter.grad.clone() for parameter in run.model.parameters() if parameter.grad is not None]
    assert run.validate() == run.validate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(run).items())
    assert run.lanes.cursors == cursors
    for parameter, gradient in zip(run.model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_validation_is_the_bits_per_byte_of_the_held_out_shard(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus, validation_bytes=2 * 48 + 1), ignore)
    for _ in range(20):
        run.step()
    built = Corpus(corpus)
    text = torch.from_numpy(built.read(built.validation)[: 2 * 48 + 1].astype(np.int64))
    bits = []
    with torch.no_grad():
        weights = run.model.cell.weights(run.model.embedding)
        for begin in (0, 48):
            state = run.model.zero_state(1)
            for byte, target in zip(text[begin : begin + 48], text[begin + 1 : begin + 49], strict=True):
                state = cells.step("mlstm", weights, byte[None], state)
                logits = state.hidden @ run.model.output_w + run.model.output_b
                bits.append(-float(torch.log_softmax(logits[0], dim=0)[target]) / np.log(2))
    assert run.validate() == Validated(pytest.approx(np.mean(bits), rel=1e-5))


def test_the_seed_determines_the_run(corpus: Path, tmp_path: Path) -> None:
    runs = [
        Run.create(tmp_path / str(number), options(corpus, seed=seed), ignore) for number, seed in enumerate((5, 5, 6))
    ]
    for run in runs:
        run.step()
    assert_identical(runs[0], runs[1])
    assert not torch.equal(runs[0].model.output_w, runs[2].model.output_w)


def test_train_gives_the_signals_back(corpus: Path, tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    Run.create(tmp_path / "run", options(corpus, total_bytes=STEP_BYTES), ignore).train()
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_was_trained_is_saved_even_if_validation_fails(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", options(corpus, total_bytes=3 * STEP_BYTES), ignore)

    def fail() -> float:
        raise OSError("the shard is gone")

    monkeypatch.setattr(run, "validate", fail)
    with pytest.raises(OSError, match="gone"):
        run.train()
    assert Run.resume(tmp_path / "run", ignore).progress.step == 3


def test_the_snapshot_round_trips_progress(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", options(corpus), ignore)
    run.step()
    run.progress = Progress(step=1, bytes_seen=32, skipped_steps=4, seconds=12.5)
    where = run.save()
    _, cursors, progress = snapshot.load(where, run.objective, run.optimizers)
    assert progress == run.progress
    assert cursors == run.lanes.cursors


TRAIN = """
    import json, sys
    from pathlib import Path
    import torch
    from trainer.run.options import Options
    from trainer.run.train import Run

    torch.set_num_threads(1)
    options = Options(**json.loads(sys.argv[2]))
    run = Run.create(Path(sys.argv[1]), options, lambda record: print(record["step"], flush=True))
    run.train()
    print("saved", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(corpus: Path, tmp_path: Path, number: signal.Signals) -> None:
    chosen = options(corpus, total_bytes=10**12, validate_every_bytes=20 * STEP_BYTES)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN), str(tmp_path / "run"), json.dumps(asdict(chosen))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    with process, process.stdout:
        first = int(process.stdout.readline())  # it trains
        process.send_signal(number)
        rest = process.stdout.read().split()
        assert process.wait(180) == 0
    assert rest[-1] == "saved"
    last = [first, *map(int, rest[:-1])][-1]
    assert last >= first == 20
    resumed = Run.resume(tmp_path / "run", ignore)
    assert resumed.progress.step == last
    # It continues where an uninterrupted run would be.
    straight = Run.create(tmp_path / "straight", chosen, ignore)
    for _ in range(last):
        straight.step()
    assert_identical(resumed, straight)


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_on_a_gpu_follows_the_one_on_a_cpu(corpus: Path, tmp_path: Path, optimizer: str) -> None:
    chosen = options(corpus, optimizer=optimizer, accumulate=2, total_bytes=100 * STEP_BYTES)
    on_cpu = Run.create(tmp_path / "cpu", chosen, ignore)
    on_gpu = Run.create(tmp_path / "gpu", replace(chosen, device="cuda"), ignore)
    for step in range(20):
        if step == 10:
            on_gpu.save()
            on_gpu = Run.resume(tmp_path / "gpu", ignore)
        assert on_gpu.step()[0] == pytest.approx(on_cpu.step()[0], abs=1e-3)
    assert on_gpu.validate().bits_per_byte == pytest.approx(on_cpu.validate().bits_per_byte, abs=1e-3)

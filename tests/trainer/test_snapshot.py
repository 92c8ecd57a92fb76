"""Snapshots: what is in them, which are kept, damage that is noticed, writing in the background, and kill -9."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints import checkpoint, volumes
from model.checkpoints.durable import exclusively
from tests.conftest import wait_until
from tests.support.runs import STEP_BYTES, assert_identical, everything, ignore, logged, options, write_corpus
from trainer.publishing.publish import publish_run
from trainer.run import lock, snapshot
from trainer.run.options import Options, TrainingError
from trainer.run.saving import Saver
from trainer.run.snapshot import PROGRESS, TENSORS, Progress, Snapshot, SnapshotError, snapshots
from trainer.run.train import Run
from trainer.run.validation import Validated


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "built")


def run_with(directory: Path, chosen: Options, steps: tuple[int, ...]) -> Run:
    """A run saved after each of these steps."""
    run = Run.create(directory, chosen, ignore)
    while run.progress.step < steps[-1]:
        run.step()
        if run.progress.step in steps:
            run.save()
    return run


def names(directory: Path) -> list[str]:
    return [path.name for path in snapshots(directory / "snapshots")]


# ---- what is in them


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_whatever_an_optimizer_keeps_is_kept(corpus: Path, tmp_path: Path, optimizer: str) -> None:
    run = run_with(tmp_path / "run", options(corpus, optimizer=optimizer), (3,))
    tensors = load_file(tmp_path / "run" / "snapshots" / "step-3" / TENSORS)
    hidden = "momentum_buffer" if optimizer == "muon" else "exp_avg_sq"
    assert f"optimizer.{hidden}.cell.wh" in tensors
    assert f"optimizer.{hidden}.cell.wmh" in tensors
    assert "optimizer.exp_avg_sq.cell.gh" in tensors
    again = Run.resume(tmp_path / "run", ignore)
    assert_identical(again, run)
    for _ in range(3):
        assert again.step() == run.step()
    assert_identical(again, run)


def test_muon_moves_the_recurrent_matrices_and_adam_the_rest(corpus: Path, tmp_path: Path) -> None:
    run = Run.create(
        tmp_path / "run", options(corpus, optimizer="muon", muon_learning_rate=1e-9, warmup_steps=0), ignore
    )
    before = everything(run)
    run.step()
    moved = {name: float((after.detach() - before[name]).abs().max()) for name, after in run.model.named_parameters()}
    assert {name for name, change in moved.items() if change < 1e-7} == {"cell.wh", "cell.wmh"}


def test_the_weights_alone(corpus: Path, tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", options(corpus, steepness=2.0), (2,))
    path = tmp_path / "run" / "snapshots" / "step-2"
    model = snapshot.read_model(path, run.options.architecture)
    assert model.architecture.steepness == 2.0
    for (name, found), expected in zip(model.named_parameters(), run.model.parameters(), strict=True):
        assert torch.equal(found, expected), name
    with pytest.raises(SnapshotError, match=r"parameter 'embedding' .* needs \(256, 9\)"):
        snapshot.read_model(path, options(corpus, embedding_size=9).architecture)


# ---- which are kept


def test_the_best_is_kept_beside_the_newest(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(corpus, total_bytes=8 * STEP_BYTES, validate_every_bytes=2 * STEP_BYTES, snapshot_every_s=0.0)
    run = Run.create(tmp_path / "run", chosen, ignore)
    held_out = iter([5.0, 4.0, 6.0, float("nan")])
    monkeypatch.setattr(run, "validate", lambda: Validated(next(held_out)))
    run.train()
    assert names(tmp_path / "run") == ["step-4", "step-7", "step-8"]
    best = snapshot.best(tmp_path / "run" / "snapshots")
    assert best == tmp_path / "run" / "snapshots" / "step-4"
    progress, _, _ = snapshot.read_progress(best)
    assert (progress.validation_bits_per_byte, progress.validation_step) == (4.0, 4)
    last, _, _ = snapshot.read_progress(tmp_path / "run" / "snapshots" / "step-7")
    assert (last.validation_bits_per_byte, last.validation_step) == (6.0, 6), "the last validation, not of this step"
    assert (run.progress.validation_bits_per_byte, run.progress.best_validation_bits_per_byte) == (None, 4.0)
    assert logged(tmp_path / "run")[-1]["validation_bits_per_byte"] is None, "JSON has no NaN"


def test_a_new_best_is_saved_at_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(corpus, total_bytes=8 * STEP_BYTES, validate_every_bytes=2 * STEP_BYTES, keep=1)
    run = Run.create(tmp_path / "run", chosen, ignore)
    held_out = iter([5.0, 4.0, 6.0, 7.0])

    def validate() -> Validated:
        wait_until(lambda: run._saver.idle, what="the end of the snapshot before")
        return Validated(next(held_out))

    monkeypatch.setattr(run, "validate", validate)
    run.train()
    assert names(tmp_path / "run") == ["step-4", "step-8"]


def test_a_new_best_waits_for_no_other_snapshot(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(corpus, total_bytes=8 * STEP_BYTES, validate_every_bytes=2 * STEP_BYTES)
    run = Run.create(tmp_path / "run", chosen, ignore)
    held_out, validated = iter([5.0, 4.0, 3.0, 2.0]), threading.Event()

    def validate() -> Validated:
        bits = next(held_out)
        if bits == 2.0:
            validated.set()
        return Validated(bits)

    def slow(directory: Path, taken: Snapshot) -> Path:
        assert validated.wait(180)
        return snapshot.write(directory, taken)

    monkeypatch.setattr(run, "validate", validate)
    monkeypatch.setattr("trainer.run.saving.write", slow)
    run.train()
    assert names(tmp_path / "run") == ["step-2", "step-8"]


def test_what_is_protected_outlives_newer_ones(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep=1)
    for step in range(1, 5):
        saver.protected = frozenset({tmp_path / "step-2"})
        saver.save(Snapshot({"model.a": torch.ones(2)}, [], Progress(step)))
        saver.collect(wait=True)
    assert [path.name for path in snapshots(tmp_path)] == ["step-2", "step-4"]


# ---- writing in the background


def test_what_is_saved_is_of_the_moment(tmp_path: Path) -> None:
    saver, values, progress = Saver(tmp_path, keep=5), torch.zeros(3_000_000), Progress()
    written: list[Path] = []
    for step in range(1, 4):
        values.fill_(step)
        progress.step = step
        saver.save(Snapshot({"values": values, "count": torch.tensor(step)}, [], progress), written.append)
        values.fill_(-1)
        progress.step = -1
        with pytest.raises(RuntimeError, match="not collected"):
            saver.save(Snapshot({}, [], progress))
        assert written == [tmp_path / f"step-{before}" for before in range(1, step)]
        found = saver.collect(wait=True)
        assert found is not None
        assert written[-1] == found.path == tmp_path / f"step-{step}"
        tensors = load_file(found.path / TENSORS)
        assert (tensors["values"] == step).all()
        assert int(tensors["count"]) == step
    assert saver.collect(wait=True) is None


def test_a_snapshot_that_cannot_be_written_is_reported_and_the_run_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[dict[str, Any]] = []
    chosen = options(corpus, total_bytes=6 * STEP_BYTES, snapshot_every_s=0.0, keep=9)
    run = Run.create(tmp_path / "run", chosen, records.append)
    rename = Path.rename

    def full_at_3(self: Path, target: Path) -> Path:
        if target.name == "step-3":
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full_at_3)
    run.train()
    assert names(tmp_path / "run") == ["step-1", "step-2", "step-4", "step-5", "step-6"]
    warnings = [record["warning"] for record in records if "warning" in record]
    assert warnings == ["a snapshot could not be written: no space left"]
    assert next(r for r in logged(tmp_path / "run") if "warning" in r)["warning"] == warnings[0]


# ---- damage


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "flipped":
        content[-9] ^= 1
    elif how == "empty":
        content.clear()
    path.write_bytes(content)
    if how == "missing":
        path.unlink()


@pytest.mark.parametrize("file", [TENSORS, PROGRESS])
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "missing"])
def test_damage_is_noticed_and_the_former_snapshot_used(corpus: Path, tmp_path: Path, file: str, how: str) -> None:
    chosen = options(corpus, total_bytes=6 * STEP_BYTES)
    run_with(tmp_path / "run", chosen, (2, 4))
    newest = tmp_path / "run" / "snapshots" / "step-4"
    damage(newest / file, how)
    shutil.copytree(newest, newest.with_name("step-4.damaged"))  # as an earlier crash left it
    with pytest.raises(SnapshotError, match=file):
        snapshot.verify(newest)
    records: list[dict[str, Any]] = []
    run = Run.resume(tmp_path / "run", records.append)
    assert run.progress.step == 2
    assert len(records) == 1
    assert str(newest) in records[0]["warning"]
    run.train()
    # Set aside, so that a whole one could take its name.
    assert names(tmp_path / "run") == ["step-2", "step-6"]
    assert (newest.parent / "step-4.damaged").is_dir()
    straight = Run.create(tmp_path / "straight", chosen, ignore)
    straight.train()
    assert_identical(run, straight)


def test_a_run_whose_snapshots_are_all_damaged_does_not_start_over(corpus: Path, tmp_path: Path) -> None:
    run_with(tmp_path / "run", options(corpus), (2, 4))
    for path in snapshots(tmp_path / "run" / "snapshots"):
        damage(path / TENSORS, "cut")
    with pytest.raises(TrainingError, match=r"every snapshot of .* is damaged: delete .*snapshots to start over"):
        Run.resume(tmp_path / "run", ignore)


def test_a_run_that_another_process_took_further_is_left_to_it(corpus: Path, tmp_path: Path) -> None:
    run_with(tmp_path / "run", options(corpus), (2,))
    late = Run.resume(tmp_path / "run", ignore)
    first = Run.resume(tmp_path / "run", ignore)
    first.step()
    first.save()
    with pytest.raises(TrainingError, match=r"another process has written .*step-3 since"):
        late.train()
    assert names(tmp_path / "run") == ["step-2", "step-3"]


# ---- a run in another place


def test_a_copied_run_resumes_with_its_corpus_elsewhere(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "here" / "corpus")
    run = run_with(tmp_path / "here" / "run", options(tmp_path / "here" / "corpus"), (3,))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(TrainingError, match=r"here/corpus is not a corpus.* name its place with --corpus"):
        Run.resume(tmp_path / "there" / "run", ignore)
    moved = str(tmp_path / "there" / "corpus")
    again = Run.resume(tmp_path / "there" / "run", ignore, corpus=moved)
    assert_identical(again, run)
    assert Options.read(tmp_path / "there" / "run").corpus == moved
    assert_identical(Run.resume(tmp_path / "there" / "run", ignore), run)


def test_a_resume_beside_a_training_changes_none_of_its_options(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_with(tmp_path / "run", options(corpus), (1,))
    before = Options.read(tmp_path / "run")
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    with exclusively(tmp_path / "run" / "lock", 0), pytest.raises(TrainingError, match="it trains there, wait for"):
        Run.resume(tmp_path / "run", ignore, total_bytes=10**9)
    assert Options.read(tmp_path / "run") == before
    # What changes them before a run trains ends it, for its next --resume would go on with the others.
    Run.resume(tmp_path / "run", ignore, keep=9)
    with pytest.raises(TrainingError, match=r"another process has changed .*options.json since"):
        run.train(peak_flops=1e12)


def test_of_two_that_create_a_run_one_is_refused(corpus: Path, tmp_path: Path) -> None:
    both, made, refused = threading.Barrier(2), [], []

    def create(seed: int) -> None:
        both.wait()
        try:
            made.append(Run.create(tmp_path / "run", options(corpus, seed=seed), ignore))
        except TrainingError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=create, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Options.read(tmp_path / "run") == made[0].options
    assert len(made) == 1
    assert "holds a run already" in refused[0]


def test_another_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    run_with(tmp_path / "run", options(corpus), (1,))
    other = write_corpus(tmp_path / "other", shards=9)
    with pytest.raises(TrainingError, match=r"other is not the corpus that the run was made with"):
        Run.resume(tmp_path / "run", ignore, corpus=str(other))
    assert Options.read(tmp_path / "run").corpus == str(corpus)


@pytest.mark.parametrize(("name", "value"), [("units", 8), ("lanes", 1), ("seed", 3), ("learning_rate", 1.0)])
def test_another_run_is_not_gone_on_with(corpus: Path, tmp_path: Path, name: str, value: float) -> None:
    run_with(tmp_path / "run", options(corpus), (1,))
    flag = "--" + name.replace("_", "-")
    with pytest.raises(TrainingError, match=f"{flag} is {value} but the run was made with"):
        Run.resume(tmp_path / "run", ignore, **{name: value})
    Run.resume(tmp_path / "run", ignore, **{name: getattr(options(corpus), name)}, keep=7)
    assert Options.read(tmp_path / "run").keep == 7


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"corpus": "c", "colour": 1}', '{"units": 4}', '{"corpus": "c", "lanes": -1}']
)
def test_options_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "options.json").write_text(content)
    with pytest.raises(TrainingError):
        Options.read(tmp_path)


# ---- from a checkpoint


def test_a_run_begins_with_the_weights_of_a_checkpoint(corpus: Path, tmp_path: Path, tiny_volume: Path) -> None:
    published = checkpoint.read(volumes.resolve(tiny_volume)).model
    same = {"units": published.architecture.units, "embedding_size": published.architecture.embedding_size}
    run = Run.create(tmp_path / "run", options(corpus, start_from=str(tiny_volume), **same), ignore)
    for found, expected in zip(run.model.parameters(), published.parameters(), strict=True):
        assert torch.equal(found, expected)
    run.step()
    run.save()
    assert_identical(Run.resume(tmp_path / "run", ignore), run)
    before = checkpoint.read_manifest(volumes.resolve(tiny_volume)).bytes_seen
    assert before > 0
    where = publish_run(tmp_path / "run", tmp_path / "volume")
    assert checkpoint.read_manifest(where).bytes_seen == before + run.progress.bytes_seen
    with pytest.raises(TrainingError, match=r"units=48.*units=16"):
        Run.create(tmp_path / "other", options(corpus, start_from=str(tiny_volume)), ignore)
    with pytest.raises(TrainingError, match="--from: "):
        Run.create(tmp_path / "none", options(corpus, start_from=str(tmp_path)), ignore)
    assert not (tmp_path / "other" / "options.json").exists()


# ---- kill -9


def save_for_ever(directory: Path) -> None:
    torch.set_num_threads(1)
    Run.resume(directory, ignore, snapshot_every_s=0.0).train()


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_leaves_the_former_snapshot(corpus: Path, tmp_path: Path) -> None:
    chosen = options(corpus, units=64, total_bytes=10**12, snapshot_every_s=0.0)
    run_with(tmp_path / "run", chosen, (1,))
    # A server that has loaded torch forks the processes: they are real, and start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.run.train", "torch.utils.tensorboard", "torch._dynamo"])
    draw, kept = random.Random(7), 1  # noqa: S311
    for _ in range(10):
        process = context.Process(target=save_for_ever, args=(tmp_path / "run",))
        process.start()
        begun = kept
        wait_until(lambda: newest(tmp_path / "run") > begun, what="a snapshot")  # noqa: B023
        process.join(draw.uniform(0.0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for path in snapshots(tmp_path / "run" / "snapshots"):
            snapshot.verify(path)
        kept = newest(tmp_path / "run")
        assert Run.resume(tmp_path / "run", ignore).progress.step == kept
    assert kept > 10
    run = Run.resume(tmp_path / "run", ignore, total_bytes=(kept + 1) * STEP_BYTES)
    run.train()
    assert names(tmp_path / "run") == [f"step-{kept}", f"step-{kept + 1}"] or len(names(tmp_path / "run")) == 3
    assert [path for path in (tmp_path / "run" / "snapshots").iterdir() if path.name.startswith(".")] == []


def newest(run: Path) -> int:
    return snapshot.step_of(snapshots(run / "snapshots")[-1])

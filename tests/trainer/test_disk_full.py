"""A full disk under the volume of checkpoints or under the run: it continues, says so, and saves once there is room."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from model.checkpoints import checkpoint, volumes
from model.checkpoints.checkpoint import CheckpointError
from tests.support.runs import STEP_BYTES, ignore, logged, options, write_corpus
from tests.support.small_disk import full, small_disk
from trainer.publishing.publish import publish_run
from trainer.run.train import Run


@pytest.mark.slow
def test_a_run_goes_on_where_nothing_can_be_published(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    with small_disk(tmp_path / "volume", megabytes=1) as volume:
        chosen = options(corpus, total_bytes=8 * STEP_BYTES, publish_to=str(volume), publish_every_steps=4)
        with full(volume):
            run = Run.create(tmp_path / "run", chosen, ignore)
            run.train(publish=publish_run)
            assert run.progress.step == 8
            warnings = [record["warning"] for record in logged(tmp_path / "run") if "warning" in record]
            assert "step-8 was not published: exit code 1" in warnings[-1]
            assert f"{volume / 'reviews-mlstm-16' / 'step-8'} is not published, because {volume} is full" in (
                capfd.readouterr().err
            )
            assert not [path for path in volume.rglob("*") if path.name not in ("filler", ".lock", "reviews-mlstm-16")]
            with pytest.raises(CheckpointError, match="is full: the weights have "):
                publish_run(tmp_path / "run", volume)
        assert Run.resume(tmp_path / "run", ignore).progress.step == 8
        published = publish_run(tmp_path / "run", volume)
        assert checkpoint.read(volumes.latest(volume)).manifest.step == 8
        assert published == volumes.latest(volume)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's ends
def test_a_run_goes_on_where_nothing_of_it_can_be_written(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    chosen = options(corpus, total_bytes=43 * STEP_BYTES, validate_every_bytes=STEP_BYTES, snapshot_every_s=0.0)
    said: list[dict[str, Any]] = []
    with small_disk(tmp_path / "small", megabytes=4) as small, ExitStack() as filled:

        def follow(record: dict[str, Any]) -> None:
            said.append(record)
            if "warning" not in record and record["step"] == 3:
                filled.enter_context(full(small))
            if "warning" not in record and record["step"] == 40:
                filled.close()

        run = Run.create(small / "run", chosen, follow)
        run.train(peak_flops=1e12)
        assert [record["step"] for record in said if "warning" not in record] == list(range(1, 44))
        warnings = " ".join(record["warning"] for record in said if "warning" in record)
        assert "a snapshot could not be written: " in warnings
        assert f"{small / 'run' / 'log.jsonl'} lacks what follows: " in warnings
        assert "TensorBoard's events end here" in warnings
        steps = [record["step"] for record in logged(small / "run") if "warning" not in record]
        assert {1, 2, 3, 41, 42, 43} <= set(steps), "every line is whole"
        assert steps != list(range(1, 44))
        assert Run.resume(small / "run", ignore).progress.step == 43


def test_a_last_snapshot_that_finds_no_room_is_an_error_of_writing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", megabytes=4) as small:
        run = Run.create(small / "run", options(write_corpus(tmp_path / "corpus")), ignore)
        with full(small), pytest.raises(OSError, match=r"step-0 cannot be written: .*No space left"):
            run.save()

"""A full disk under the volume of checkpoints: the run continues, says so, and is published once there is room."""

from pathlib import Path

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

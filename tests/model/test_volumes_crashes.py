"""Whatever fails or is killed while publishing, LATEST names a whole checkpoint; publishers take turns."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoints import durable
from model.checkpoints.checkpoint import read
from model.checkpoints.volumes import latest, publish
from tests.support.checkpoints import MANIFEST, tiny_model

ROOT = Path(__file__).parents[2]


TAKE_TURNS = """
    import os, sys
    from dataclasses import replace
    from pathlib import Path
    import torch
    from model.checkpoints.checkpoint import CheckpointError, read
    from model.checkpoints.manifest import Manifest
    from model.checkpoints.volumes import latest, publish
    from model.network.language_model import Architecture, LanguageModel

    torch.set_num_threads(1)
    volume, publishers, stride = Path(sys.argv[1]), 3, int(sys.argv[2])
    architecture = Architecture("mlstm", 32, 8)
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(0))
    manifest = Manifest("loop", 0, architecture, 0, None, sha256={})
    gate = os.pipe()
    children = []
    for number in range(publishers):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(gate[1])
            os.read(gate[0], 1)  # until all are there
            for step in range(number if stride > 1 else 0, 24, stride):
                try:
                    publish(volume, model, replace(manifest, step=step), torch.float32)
                    os.write(1, b"published\\n")
                except CheckpointError as error:
                    assert "later than step" in str(error), error
                read(latest(volume))
            os._exit(0)
    os.close(gate[1])
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * publishers
"""


@pytest.mark.parametrize("stride", [1, 3], ids=["the same steps", "steps in turn"])
def test_publishers_take_turns(tmp_path: Path, stride: int) -> None:
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(TAKE_TURNS), str(tmp_path), str(stride)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert latest(tmp_path).name == "step-23"
    assert not list(tmp_path.rglob("*.partial"))
    steps = list(latest(tmp_path).parent.iterdir())
    for step in steps:
        read(step)
    published = done.stdout.count("published")
    if stride == 3:  # what was refused for coming late was not written
        assert published == len(steps)
    else:
        assert published >= len(steps) == 24


def test_no_failing_sync_leaves_latest_on_half_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, tiny_model(0), MANIFEST)
    sync, calls, step = durable.sync, 0, 121
    for fails_at in range(8):
        calls = 0

        def fail(path: Path, fails_at: int = fails_at) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at + 1:
                raise OSError("input/output error")
            sync(path)

        monkeypatch.setattr(durable, "sync", fail)
        step += 1
        try:
            publish(tmp_path, tiny_model(step), replace(MANIFEST, step=step))
        except OSError:
            assert read(latest(tmp_path)).manifest.step <= step
        else:
            assert fails_at == 6, "a publish has six syncs"
            assert latest(tmp_path).name == f"step-{step}"
            break


@pytest.mark.parametrize("place", ["os.rename", "os.replace", "model.checkpoints.durable.sync"])
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_crash_in_the_middle_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: type[BaseException]
) -> None:
    old = publish(tmp_path, tiny_model(0), MANIFEST)

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(failure):
            publish(tmp_path, tiny_model(1), replace(MANIFEST, step=121))
    assert latest(tmp_path) == old
    assert read(old).manifest.step == 120
    assert not list(tmp_path.rglob("*.partial"))
    # The same step goes through, whether it was written or not: only LATEST may have been left to do.
    assert latest(tmp_path) == old
    again = publish(tmp_path, tiny_model(1), replace(MANIFEST, step=121))
    assert latest(tmp_path) == again
    assert read(again).manifest.step == 121


PUBLISH_AND_KILL = """
    import os, random, signal, sys, time
    from dataclasses import replace
    from pathlib import Path
    import torch
    from model.checkpoints.checkpoint import read
    from model.checkpoints.manifest import Manifest
    from model.checkpoints.volumes import latest, publish
    from model.network.language_model import Architecture, LanguageModel

    torch.set_num_threads(1)
    volume, draw = Path(sys.argv[1]), random.Random(0)
    architecture = Architecture("mlstm", 32, 8)
    model = LanguageModel(architecture)
    model.reset(torch.Generator().manual_seed(0))
    manifest = Manifest("loop", 0, architecture, 0, None, sha256={})
    publish(volume, model, manifest, torch.float32)
    halves, known = 0, set()
    for _ in range(40):
        first = 1 + read(latest(volume)).manifest.step  # which may be there already, if its publisher died early
        child = os.fork()
        if child == 0:
            for step in range(first, first + 10_000):
                publish(volume, model, replace(manifest, step=step), torch.float32)
            os._exit(1)
        time.sleep(draw.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        found = read(latest(volume))
        assert f"step-{found.manifest.step}" == latest(volume).name
        left = len(list((volume / "loop").glob("*.partial")))
        assert left <= 1, "what the kill before left was not swept"
        halves += left
        new = set((volume / "loop").glob("step-*")) - known
        for whole in new:
            read(whole)
        known |= new
        print(found.manifest.step)
    assert known == set((volume / "loop").glob("step-*"))
    for whole in known:
        read(whole)
    assert halves, "no kill came while something was being written"
"""


@pytest.mark.slow
def test_kill_9_while_publishing_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PUBLISH_AND_KILL), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 40
    assert steps == sorted(steps)
    assert steps[-1] > steps[0], "nothing was published between the kills"

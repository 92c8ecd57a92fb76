"""Directories and small files appear whole or not at all, and what exists is never written over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.checkpoints import durable
from model.checkpoints.durable import exclusively, new_directory, replace_file, sweep


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_takes_its_name_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b"
    with new_directory(final) as temporary:
        (temporary / "file").write_text("content")
        assert not final.exists()
        assert temporary.parent == final.parent  # the same file system, or the rename would copy
        assert temporary.name.startswith(".")
    assert (final / "file").read_text() == "content"
    assert names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def fill() -> None:
        with new_directory(tmp_path / "new") as temporary:
            (temporary / "file").write_text("half")
            raise failure

    with pytest.raises(failure):
        fill()
    assert names(tmp_path) == []


def test_what_exists_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError, match="never overwritten"), new_directory(tmp_path / "old"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["old"]


def test_of_two_writers_the_first_wins(tmp_path: Path) -> None:
    final = tmp_path / "step"

    def late() -> None:
        with new_directory(final) as slow:
            (slow / "file").write_text("slow")
            with new_directory(final) as quick:
                (quick / "file").write_text("quick")

    with pytest.raises(FileExistsError):
        late()
    assert (final / "file").read_text() == "quick"
    assert names(tmp_path) == ["step"]


def test_everything_is_synced_before_the_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    rename = os.rename
    monkeypatch.setattr(durable, "sync", lambda path: events.append(f"sync {path.name[:6]}"))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    with new_directory(tmp_path / "x") as temporary:
        for name in ("one", "two"):
            (temporary / name).write_text(name)
    assert sorted(events[:2]) == ["sync one", "sync two"]
    assert events[2:] == [f"sync {temporary.name[:6]}", "rename", f"sync {tmp_path.name[:6]}"]


def test_the_names_of_new_parents_are_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    with new_directory(tmp_path / "a" / "b" / "c"):
        assert set(synced) == {tmp_path, tmp_path / "a"}
    assert synced[-1] == tmp_path / "a" / "b"


def test_sweep_takes_what_writers_left_and_nothing_else(tmp_path: Path) -> None:
    keep = ["LATEST", "step-1", ".hidden", "notes.partial"]
    for name in (*keep, ".LATEST.0123.partial"):
        (tmp_path / name).write_text("x")
    with new_directory(tmp_path / "step-2") as temporary:
        (temporary / "file").write_text("half")
        sweep(tmp_path)
        assert not temporary.exists()
        temporary.mkdir()
    assert names(tmp_path) == sorted([*keep, "step-2"])
    sweep(tmp_path / "missing")


def test_the_lock_is_held_by_one_and_freed_by_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def fail() -> None:
        with exclusively(lock, 0.0):
            with pytest.raises(TimeoutError, match=r"has held .*lock for 0 s"), exclusively(lock, 0.0):
                pytest.fail("the body must not run")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with exclusively(lock, 0.0):
        pass


HOLD = """
import sys, time
from pathlib import Path
from model.checkpoints.durable import exclusively

with exclusively(Path(sys.argv[1]), 0.0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_kill_9_frees_the_lock_and_who_waits_gets_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), exclusively(lock, 0.1):
            pytest.fail("the body must not run")
        holder.send_signal(signal.SIGKILL)
        with exclusively(lock, 60.0):
            pass


def test_replace_file_swaps_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "LATEST"
    replace_file(path, "one, and rather long\n")
    reader = path.open()
    replace_file(path, "zwei ü\n")
    assert path.read_text(encoding="utf-8") == "zwei ü\n"
    # Whoever has the old file open continues reading the old content: it was not written into.
    assert reader.read() == "one, and rather long\n"
    reader.close()
    assert names(tmp_path) == ["LATEST"]


@pytest.mark.parametrize("place", ["os.replace", "model.checkpoints.durable.sync"])
def test_a_failed_replace_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = tmp_path / "LATEST"
    replace_file(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(place, fail)
    with pytest.raises(OSError, match="no space left"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["LATEST"]

"""Directories and small files appear whole or not at all, and what exists is never written over."""

import os
from pathlib import Path

import pytest

from model import durable
from model.durable import new_directory, replace_file


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
    monkeypatch.setattr(durable, "_sync", lambda path: events.append(f"sync {path.name[:6]}"))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    with new_directory(tmp_path / "x") as temporary:
        for name in ("one", "two"):
            (temporary / name).write_text(name)
    assert sorted(events[:2]) == ["sync one", "sync two"]
    assert events[2:] == [f"sync {temporary.name[:6]}", "rename", f"sync {tmp_path.name[:6]}"]


def test_replace_file_swaps_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "LATEST"
    replace_file(path, "one, and rather long\n")
    reader = path.open()
    replace_file(path, "zwei ü\n")
    assert path.read_text(encoding="utf-8") == "zwei ü\n"
    # Whoever has the old file open goes on reading the old content: it was not written into.
    assert reader.read() == "one, and rather long\n"
    reader.close()
    assert names(tmp_path) == ["LATEST"]


@pytest.mark.parametrize("place", ["os.replace", "model.durable._sync"])
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

"""What is read of files that somebody else may have written: plain ones, whole and bounded, and JSON of one meaning."""

import os
import socket
from pathlib import Path

import pytest

from model.checkpoints.untrusted import brief, open_plain, parse_json, read_plain


def test_a_plain_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_plain(path, 5) == b"12345"
    with open_plain(path) as file:
        assert file.read(2) == b"12"
    with pytest.raises(OSError, match="it has 5 bytes, more than the 4 allowed"):
        read_plain(path, 4)


def test_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**42)
    with pytest.raises(OSError, match="it has 4398046511104 bytes, more than the 1000 allowed"):
        read_plain(path, 1000)


def test_nothing_else_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "gone").symlink_to("missing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("link", "gone", "folder", "pipe", "socket", "missing", "a\0b", "x" * 300):
            with pytest.raises(OSError):  # noqa: PT011 - the reason is another for each
                open_plain(tmp_path / name)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="not a plain file"):
            open_plain(Path(device))


def test_json_is_parsed() -> None:
    content = '{"a": [1, 2.5, null, true, "ü", {"a": {}}], "b": -1e3}'
    assert parse_json(content.encode()) == {"a": [1, 2.5, None, True, "ü", {"a": {}}], "b": -1000.0}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1, "a": 1}', "twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "twice"),
        (b"[NaN]", "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b"[" * 10**6, "nested too deep"),
        (b'{"a":' * 10**5, "nested too deep"),
        (b"9" * 10**5, "digits"),
        (b'"\xff"', "decode"),
        ('"wide"'.encode("utf-16"), "decode"),
        (b"\xef\xbb\xbf1", "BOM"),
        (b"", "Expecting value"),
        (b"1 2", "Extra data"),
    ],
)
def test_json_of_no_or_two_meanings_is_refused(content: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_json(content)


def test_an_error_is_told_in_one_line() -> None:
    reported = brief(ValueError("\x1b[2J\n" + "\ud800" + "x" * 10_000))
    assert reported.isprintable()
    assert reported.startswith(r"\x1b[2J\n\ud800xxx")
    assert len(reported) < 400

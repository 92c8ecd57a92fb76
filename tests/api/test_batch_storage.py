"""Where batches lie: a directory and a bucket of S3, by a real server of it, keep the same promises."""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from moto.server import ThreadedMotoServer

from api.batches.storage import Storage, open_storage, write
from contract.setting_error import SettingError
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket, whose server the environment names."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"batches-{secrets.token_hex(4)}"
    httpx.put(f"{s3}/{name}").raise_for_status()
    return f"s3://{name}/some/prefix"


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "directory":
        return open_storage(str(tmp_path / "storage"))
    return open_storage(request.getfixturevalue("bucket"))


def test_what_is_written_is_read_listed_and_deleted(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("a/b")
    assert storage.names("a") == storage.names("") == []
    storage.delete("a/b")
    write(storage, "a/b", b"first")
    write(storage, "a/b", b"second")
    write(storage, "a/c d", b"")
    write(storage, "e", b"x")
    assert storage.read("a/b") == b"second"
    assert storage.read("a/c d") == b""
    assert [storage.exists(path) for path in ("a/b", "a/c d", "a", "b", "a/b/c")] == [True, True, True, False, False]
    assert storage.names("") == ["a", "e"]
    assert storage.names("a") == ["b", "c d"]
    assert [storage.size(path) for path in ("", "a", "nothing")] == [7, 6, 0]
    storage.delete("a/b")
    assert storage.names("a") == ["c d"]
    storage.delete("a")
    assert storage.names("") == ["e"]


def test_a_large_file_is_read_from_anywhere(storage: Storage) -> None:
    content = secrets.token_bytes(11 * 2**20)  # more than one part of an upload to S3
    with storage.writing("large") as add:
        for start in range(0, len(content), 2**20):
            add(content[start : start + 2**20])
    assert storage.read("large") == content
    assert storage.read("large", 10_000_000, 100) == content[10_000_000:10_000_100]
    assert storage.read("large", 0, 5) == content[:5]
    assert storage.read("large", len(content) - 5, 100) == content[-5:]


@pytest.mark.parametrize("size", [10, 11 * 2**20])
def test_what_is_not_finished_leaves_what_was_there(storage: Storage, size: int) -> None:
    write(storage, "a/b", b"before")

    def fail() -> None:
        with storage.writing("a/b") as add:
            add(b"x" * size)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert storage.read("a/b") == b"before"
    assert storage.names("a") == ["b"]


def test_what_a_dead_gateway_has_begun_is_deleted_later(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with storage.writing("a/b"):
        (begun,) = (tmp_path / ".unfinished").iterdir()
        os.utime(begun, (0, 0))
        left = begun.with_name("left")
        begun.rename(left)
        begun.touch()
    storage.delete_unfinished(age_s=60)
    assert not left.exists()
    with storage.writing("a/c") as add:
        storage.delete_unfinished(age_s=60)
        add(b"x")
    assert storage.names("a") == ["b", "c"]
    assert storage.names("") == ["a"]


def test_an_upload_that_cannot_be_finished_leaves_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several parts, of which S3 keeps those that came until the upload is ended."""
    storage = open_storage(bucket)
    address, name = os.environ["AWS_ENDPOINT_URL"], bucket.split("/")[2]

    def begin_and_fail() -> None:
        with storage.writing("a") as add:
            for _ in range(2):
                add(b"x" * 9 * 2**20)
            assert "<UploadId>" in httpx.get(f"{address}/{name}?uploads").text
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin_and_fail()
    assert "<UploadId>" not in httpx.get(f"{address}/{name}?uploads").text


def test_a_directory_that_is_away_is_no_empty_one(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "volume"))
    write(storage, "a", b"x")
    (tmp_path / "volume").rename(tmp_path / "elsewhere")
    for act in (
        lambda: write(storage, "a", b"x"),
        lambda: storage.read("a"),
        lambda: storage.names(""),
        lambda: storage.exists("a"),
        lambda: storage.delete("a"),
    ):
        with pytest.raises(OSError, match="No such device") as caught:
            act()
        assert not isinstance(caught.value, FileNotFoundError)
    assert not (tmp_path / "volume").exists()


def test_sizes_are_counted_while_others_delete(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(bucket)
    for number in range(3):
        write(storage, f"a/{number}", b"x" * 10)
    lists = storage._files.find  # type: ignore[attr-defined]

    def delete_then(*arguments: Any, **options: Any) -> Any:
        found = lists(*arguments, **options)
        storage.delete("a/1")
        return found

    monkeypatch.setattr(storage._files, "find", delete_then)  # type: ignore[attr-defined]
    assert storage.size("a") == 30
    assert storage.size("a") == 20


def test_what_is_no_place_for_batches_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="'gs://x': neither a directory nor s3://BUCKET/PREFIX"):
        open_storage("gs://x")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(SettingError, match=r's3fs is not installed: pip install "sentiment-neuron\[s3\]"'):
        open_storage("s3://x")


def test_a_bucket_that_is_away_is_an_error_of_storage(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="bucket does not exist"):
        write(open_storage("s3://there-is-none/x"), "a", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = open_storage(bucket)
    for act in (lambda: write(away, "a", b"x"), lambda: away.read("a"), lambda: away.names("a")):
        with pytest.raises(OSError, match="Could not connect to the endpoint"):
            act()


def test_a_batch_lies_in_a_bucket(stack: Stack, bucket: str) -> None:
    lines = b"".join(
        json.dumps({"url": "/classify", "body": {"text": f"Good {number}."}, "custom_id": str(number)}).encode() + b"\n"
        for number in range(300)
    )
    with (
        gateway(stack.environment["NEURON_REDIS_URL"], NEURON_API_BATCH_STORAGE=bucket) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        batch_id = client.post("/batches", content=lines, headers=NDJSON).raise_for_status().json()["id"]
        wait_until(lambda: client.get(f"/batches/{batch_id}").json()["ended"], what="its end")
        answers = [json.loads(line) for line in client.get(f"/batches/{batch_id}/answers").content.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [str(number) for number in range(300)]
    assert {answer["response"]["status_code"] for answer in answers} == {200}

"""Files and batches driven by OpenAI's own client."""

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.conftest import Stack, wait_until


@pytest.fixture
def service(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def lines(*bodies: dict[str, Any], url: str = "/v1/embeddings") -> bytes:
    asked = [
        {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": {"model": "tiny"} | body}
        for number, body in enumerate(bodies)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in asked)


def upload(service: OpenAI, content: bytes, name: str = "requests.jsonl") -> str:
    return service.files.create(file=(name, content), purpose="batch").id


def ended(service: OpenAI, batch: Batch) -> Batch:
    wait_until(lambda: service.batches.retrieve(batch.id).status not in ("in_progress", "cancelling"), what="its end")
    return service.batches.retrieve(batch.id)


def read(service: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in service.files.content(file_id).text.splitlines()]


def test_a_batch_of_embeddings(service: OpenAI) -> None:
    file_id = upload(service, lines({"input": "Good."}, {"input": ["Bad.", "Worse."]}, {"input": []}), "Ödön.jsonl")
    file = service.files.retrieve(file_id)
    assert (file.object, file.filename, file.purpose, file.status) == ("file", "Ödön.jsonl", "batch", "processed")
    assert file.bytes == len(service.files.content(file_id).content)
    assert file_id in [one.id for one in service.files.list()]
    batch = service.batches.create(
        input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h", metadata={"run": "seven"}
    )
    assert (batch.object, batch.status, batch.input_file_id) == ("batch", "in_progress", file_id)
    done = ended(service, batch)
    assert (done.status, done.endpoint, done.metadata) == ("completed", "/v1/embeddings", {"run": "seven"})
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    assert done.in_progress_at is not None
    assert done.completed_at is not None
    assert done.created_at <= done.in_progress_at <= done.completed_at <= (done.expires_at or 0)

    found = read(service, done.output_file_id)
    assert [line["custom_id"] for line in found] == ["request-0", "request-1"]
    alone = service.embeddings.create(model="tiny", input="Good.", encoding_format="float")
    assert found[0]["response"]["body"]["data"][0]["embedding"] == alone.data[0].embedding
    (failed,) = read(service, done.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("request-2", 400)
    assert failed["response"]["body"]["error"]["type"] == "invalid_request_error"
    for name in (done.output_file_id, done.error_file_id):
        assert name is not None
        assert service.files.retrieve(name).bytes == len(service.files.content(name).content)
    service.files.delete(file_id)
    with pytest.raises(openai.NotFoundError):
        service.files.retrieve(file_id)


def test_lines_for_another_endpoint_fail_in_their_place(service: OpenAI) -> None:
    file_id = upload(service, lines({"prompt": "Good", "max_tokens": 5}, url="/v1/completions"))
    batch = service.batches.create(input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h")
    done = ended(service, batch)
    assert done.output_file_id is None
    (failed,) = read(service, done.error_file_id)
    assert failed["error"]["message"] == "url: /v1/completions is not that of the batch, /v1/embeddings"


def test_a_batch_is_cancelled(service: OpenAI) -> None:
    slow = [{"prompt": "", "max_tokens": 500_000, "stop": None} for _ in range(30)]
    file_id = upload(service, lines(*slow, url="/v1/completions"))
    batch = service.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h")
    with pytest.raises(openai.ConflictError, match=rf"the batch {batch.id.removeprefix('batch_')} reads the file"):
        service.files.delete(file_id)
    with pytest.raises(openai.NotFoundError, match="its batch has not ended"):
        service.files.content(f"file-{batch.id.removeprefix('batch_')}-output")
    assert service.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = ended(service, batch)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    assert {line["error"]["code"] for line in read(service, done.error_file_id)} == {"batch-cancelled"}


def test_lists_come_in_pages(service: OpenAI) -> None:
    file_id = upload(service, lines({"input": "Good."}))
    made = [
        service.batches.create(input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h").id
        for _ in range(3)
    ]
    page = service.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:0:-1]
    assert next(iter(page.get_next_page().data)).id == made[0]
    others = [upload(service, lines({"input": "Good."})) for _ in range(2)]
    assert [file.id for file in service.files.list(limit=1).data] == others[1:]
    assert [file.id for file, _ in zip(service.files.list(limit=1), range(3), strict=False)] == [*others[::-1], file_id]


def test_a_repeated_request_makes_one_batch(service: OpenAI) -> None:
    file_id = upload(service, lines({"input": "Good."}))
    first, second = (
        service.batches.create(
            input_file_id=file_id,
            endpoint="/v1/embeddings",
            completion_window="24h",
            extra_headers={"Idempotency-Key": f"once for {file_id}"},
        )
        for _ in range(2)
    )
    assert first.id == second.id


def test_the_asynchronous_client(stack: Stack) -> None:
    async def embed() -> str:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:
            file = await client.files.create(file=io.BytesIO(lines({"input": "Good."})), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            while batch.status != "completed":
                await asyncio.sleep(0.1)
                batch = await client.batches.retrieve(batch.id)
            assert batch.output_file_id is not None
            return (await client.files.content(batch.output_file_id)).text

    (line,) = asyncio.run(embed()).splitlines()
    assert json.loads(line)["response"]["status_code"] == 200


def test_what_is_not_taken_is_refused_with_its_reason(stack: Stack, service: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'fine-tune' is none that files have here: send `batch`"):
        service.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
    for file_id in ("file-x", "x", "file-" + "0" * 32, "file-" + "0" * 32 + "-output"):
        with pytest.raises(openai.NotFoundError, match="there is no"):
            service.files.retrieve(file_id)
        with pytest.raises(openai.NotFoundError, match="there is no"):
            service.batches.create(input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h")
    file_id = upload(service, lines({"input": "Good."}))
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        service.batches.create(input_file_id=file_id, endpoint="/v1/responses", completion_window="24h")
    with pytest.raises(openai.NotFoundError, match="there is no batch 'x'"):
        service.batches.retrieve("x")
    with pytest.raises(openai.BadRequestError, match="has no lines"):
        service.batches.create(input_file_id=upload(service, b"\n"), endpoint="/v1/embeddings", completion_window="24h")


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        ({"json": {}}, 415, "the Content-Type is 'application/json': send a form"),
        ({"data": {"purpose": "batch"}}, 415, "'application/x-www-form-urlencoded': send a form"),
        ({"files": {"other": b"{}"}, "data": {"purpose": "batch"}}, 400, "file: the form has no such file"),
        ({"files": {"file": b"{}"}}, 400, "purpose: the form has none: send `batch`"),
        ({"files": [("file", b"{}"), ("file", b"{}")], "data": {"purpose": "batch"}}, 400, "the form has two"),
        ({"files": {"file": b"{}"}, "data": {"purpose": "x" * 5000}}, 400, "a field of more than 4,096 bytes"),
        ({"files": {"file": b"{}"}, "data": {"purpose": "batch", "expires_after[seconds]": "9"}}, 400, "no such field"),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=" + "x" * 10_000}},
            400,
            "the body is no form",
        ),
        ({"files": {"file": b"{}"}, "data": {f"f{number}": "" for number in range(20)}}, 400, "more than 16 fields"),
        (
            {"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "the body is no form",
        ),
        (
            {
                "content": b"--x\r\nContent-Disposition: " + b"y" * 5000 + b"\r\n\r\n\r\n--x--\r\n",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            400,
            "the body is no form",
        ),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n{}\r\n',
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            400,
            "the body is no form: it has no end",
        ),
        (
            {
                "content": b"--x\r\nContent-Disposition: form-data; name=file; filename*=idna''x%ff\r\n\r\n{}\r\n--x--",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            400,
            "a name that cannot be read",
        ),
        ({"content": b"{}", "headers": {"Content-Type": "multipart/form-data"}}, 415, "and its boundary"),
    ],
)
def test_what_is_no_form_with_a_file_is_refused(stack: Stack, sent: dict[str, Any], status: int, message: str) -> None:
    refused = httpx.post(f"{stack.url}/v1/files", **sent)
    assert refused.status_code == status
    assert message in refused.json()["error"]["message"]

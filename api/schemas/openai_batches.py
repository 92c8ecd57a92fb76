"""Files and batches in the form of OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.requests import AnyText, example

_Short = Annotated[AnyText, Field(max_length=64)]
_Long = Annotated[AnyText, Field(max_length=512)]


class BatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True) | example(
        input_file_id="file-0123456789abcdef0123456789abcdef", endpoint="/v1/embeddings", completion_window="24h"
    )

    input_file_id: Annotated[AnyText, Field(max_length=128, description="A file of `POST /v1/files`.")]
    endpoint: Literal["/v1/embeddings", "/v1/completions"]
    completion_window: Literal["24h"] = Field(
        "24h", description="As the clients say it; `expires_at` says when lines without an answer get an error."
    )
    metadata: Annotated[dict[_Short, _Long], Field(max_length=16)] | None = None


class StoredFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[StoredFile]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: dict[str, Any] | None = None
    input_file_id: str
    completion_window: str
    status: Literal["in_progress", "cancelling", "completed", "cancelled", "expired", "failed"]
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    completed_at: int | None = None
    expired_at: int | None = None
    failed_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None = None


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool

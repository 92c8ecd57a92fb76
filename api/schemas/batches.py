"""Answers about batches."""

from typing import Literal

from pydantic import BaseModel, Field


class BatchResponse(BaseModel):
    id: str
    state: Literal["queued", "running", "cancelling", "done", "cancelled", "expired", "failed"]
    created: float = Field(description="Unix time in seconds, as all times here.")
    expires: float = Field(description="Lines without an answer by then get an error in its place.")
    began: float | None
    ended: float | None
    lines: int = Field(description="Of the file, without blank ones.")
    completed: int = Field(description="Lines whose answer has status 200.")
    failed: int = Field(description="Lines with another answer.")


class BatchesResponse(BaseModel):
    batches: list[BatchResponse] = Field(description="The newest first.")
    next: str | None = Field(description="What `after` is for the next page; null where this is the last.")


class BatchLine(BaseModel):
    """A line of a batch's file."""

    url: str
    body: dict[str, object]
    custom_id: str | None = None
    method: Literal["POST"] = "POST"


class BatchAnswer(BaseModel):
    """The answer to a line: what the request would have been answered, or an error where it was not asked for."""

    error: dict[str, str] | None
    response: dict[str, object] | None = Field(description="`status_code`, `request_id` and `body`.")
    custom_id: str | None

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

"""Where a job is posted when it has ended, as a request names it."""

import base64
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _secret(value: str) -> str:
    try:
        size = len(base64.b64decode(value.removeprefix("whsec_"), validate=True))
    except ValueError:
        size = 0
    if not 24 <= size <= 64:
        raise ValueError("not base64 of 24 to 64 bytes: `openssl rand -base64 32` makes one")
    return value


class Webhook(BaseModel):
    """Where the job is posted when it has ended."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[str, Field(max_length=2048, pattern="^https?://[!-~]+$")] = Field(
        description="Of a host that the service allows (`NEURON_API_WEBHOOK_HOSTS`)."
    )
    secret: Annotated[str, AfterValidator(_secret)] = Field(
        max_length=128,
        description="What the post is signed with, as Standard Webhooks has it: base64 of 24 to 64 bytes, perhaps "
        "behind `whsec_`.",
    )

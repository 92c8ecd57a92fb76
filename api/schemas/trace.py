"""The body of POST /trace."""

from typing import Annotated

from pydantic import Field

from api.schemas.requests import AnyText, JobBody, Text, Whole, example
from contract.jobs import MAX_TRACED_UNITS, Offsets


class TraceRequest(JobBody):
    model_config = example(text="It was great at first. Then it broke.")

    text: Text
    units: list[Annotated[int, Field(ge=0), Whole]] | None = Field(
        None, min_length=1, max_length=MAX_TRACED_UNITS, description="Units to trace; the sentiment unit if left out."
    )
    offsets: Offsets = Field(
        "characters",
        description="What `start` and `end` count: characters, as strings of Python do, or units of UTF-16, as those "
        "of JavaScript, Java and C# do.",
    )
    start: Annotated[int, Field(ge=0), Whole] | None = Field(
        None,
        description="Answer only the bytes of the characters from here on, counted by `offsets`: 0 at first. With it "
        "the worker keeps the states here and at the end, and a later text that is the same up to either, and starts "
        "there, is read from there on. Another worker reads the whole text: slower, to the same end.",
    )
    head: AnyText | None = Field(
        None,
        max_length=64,
        description="Also what this head makes of the state after each byte: at a space and at the end what "
        "`POST /classify` says of the text up to there, within a word what the model holds there.",
    )

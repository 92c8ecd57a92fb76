"""Requests and answers in the form of OpenAI's API, for clients that speak it: models, embeddings, completions.

A byte is a token here: `max_tokens` and `usage` count bytes.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    ValidationError,
    model_validator,
)

from api.schemas.faults import faults
from api.schemas.requests import (
    AnyText,
    Body,
    Clamp,
    Count,
    GenerateRequest,
    Seed,
    Sentiment,
    Stop,
    StopString,
    Temperature,
    Text,
    TopK,
    TopP,
    Whole,
    example,
)
from contract.jobs import Pooling, RankBy


def _absent(value: object) -> object:
    """Of what would change the answer, and cannot here. Clients send its default by habit."""
    if value:
        raise ValueError("this model does not have it: leave it out")
    return value


def _no_tokens(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("these are numbers of tokens, and this model reads bytes: send text")
    return value


_Zero = Annotated[float, Field(ge=0, le=0), Strict(), BeforeValidator(_absent)]
_Flag = Annotated[bool, Strict()]
_ModelName = Annotated[AnyText, Field(max_length=256, description="One of `GET /v1/models`.")]
# The first text at fault is named, and no other: a body may have millions.
_Texts = Annotated[list[Text], Field(min_length=1, fail_fast=True)]
_Prompts = Annotated[list[AnyText], Field(min_length=1, fail_fast=True)]


class EmbeddingsRequest(Body):
    model_config = example(model="reviews-sentiment-1024", input=["One text.", "Another one."])

    model: _ModelName
    input: Annotated[Text | _Texts, BeforeValidator(_no_tokens)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = Field(None, description="Only as many as the model has units.")
    user: Any = None
    pooling: Pooling = Field("cell", description="As of `POST /featurize`.")

    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True)  # of others nothing depends

    include_usage: _Flag | None = None


class CompletionRequest(Body):
    """What is left out, or null, is as in `POST /generate`."""

    model_config = example(model="reviews-sentiment-1024", prompt="The hotel was", max_tokens=80, seed=1)

    model: _ModelName
    prompt: Annotated[AnyText | _Prompts, BeforeValidator(_no_tokens)] = ""
    max_tokens: Count | None = Field(None, description="Bytes to generate at most.")
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Count | None = None
    best_of: Count | None = None
    stop: StopString | Stop | None = Field(None, description="A newline if left out: the end of a review.")
    seed: Seed | None = None
    logprobs: Annotated[int, Field(ge=0, le=0), Whole] | None = Field(
        None, description="0: of the bytes that are written; those of others are not known."
    )
    echo: _Flag | None = Field(None, description="Put the prompt before the text.")
    stream: _Flag | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0), BeforeValidator(_absent)] | None = None
    suffix: Annotated[str, Field(max_length=0), BeforeValidator(_absent)] | None = None
    user: Any = None
    sentiment: Sentiment | None = Field(None, description="This and the following are those of `POST /generate`.")
    clamp: Clamp | None = None
    top_k: TopK | None = None
    rank_by: RankBy | None = None

    _options: GenerateRequest = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_generated(self) -> "CompletionRequest":
        if self.echo and self.logprobs is not None:
            raise ValueError("logprobs are those of what is written, and echo would add the prompt: leave one out")
        if self.stream and self.logprobs is not None:
            raise ValueError("logprobs come with whole answers: leave logprobs or stream out")
        if self.stream and isinstance(self.prompt, list) and len(self.prompt) > 1:
            raise ValueError(f"a stream has one prompt, and here are {len(self.prompt)}: ask for each")
        names = ("temperature", "top_p", "top_k", "n", "best_of", "seed", "sentiment", "clamp", "rank_by", "stream")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        options |= {"length": self.max_tokens, "timeout_s": self.timeout_s}
        options |= {"stop": [self.stop] if isinstance(self.stop, str) else self.stop}
        options = {name: value for name, value in options.items() if value is not None}
        options["log_probabilities"] = self.logprobs is not None
        try:
            self._options = GenerateRequest(**options)
        except ValidationError as error:
            found = faults(error, GenerateRequest)
            raise ValueError("; ".join(f"{one['at']}: {one['message']}".removeprefix(": ") for one in found)) from None
        return self

    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def samples(self) -> int:
        """Number of samples to draw, of all prompts."""
        return len(self.prompts()) * self._options.samples

    def generations(self) -> list[GenerateRequest]:
        """The same as requests of ours, one for each prompt."""
        return [self._options.model_copy(update={"prompt": prompt}) for prompt in self.prompts()]


class Usage(BaseModel):
    """Bytes."""

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="With `base64` little-endian float32.")


class EmbeddingsResponse(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class LogProbabilities(BaseModel):
    tokens: list[str] = Field(description="A byte each; one that is no character of ASCII as in `bytes:\\xe2`.")
    token_logprobs: list[float]
    top_logprobs: None = None
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    finish_reason: Literal["length", "stop"]
    logprobs: LogProbabilities | None = None


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    error: Error

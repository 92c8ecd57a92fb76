"""Request bodies. Limits that a setting moves are checked by the endpoints, not here."""

import re
import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from api.schemas.faults import faults
from api.schemas.webhook import Webhook
from contract.jobs import Pooling, RankBy
from texts.preparation import clean
from texts.records import label_text


def _encodable(text: str) -> str:
    # JSON can spell half of a surrogate pair, which is not a character and has no UTF-8.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate, which is not valid Unicode") from error
    return text


def _not_blank(text: str) -> str:
    if not clean(text):
        of_what = "" if not text.strip() else ": its HTML character references stand for spaces"
        raise ValueError(f"the text is empty{of_what}")
    return text


def _number(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError("not a number")
    return value


def _label(value: object) -> object:
    """A number or a truth value as the label that files of JSON lines give it."""
    if isinstance(value, int | float) and abs(value) > EXACT:
        raise ValueError(f"a number beyond {EXACT:,} is not exact in JSON: send it as a string")
    return label_text(value) if isinstance(value, int | float) else value


def _unit_name(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(_UNIT, value):
        raise ValueError("not the number of a unit")
    return value


_UNIT = "^[0-9]{1,9}$"  # as the keys of JSON objects, which are strings, spell a unit
AnyText = Annotated[str, AfterValidator(_encodable)]
# What str.strip() takes for space, listed because languages disagree on \s.
_NOT_SPACE = r"[^\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
Text = Annotated[AnyText, AfterValidator(_not_blank), WithJsonSchema({"type": "string", "pattern": _NOT_SPACE})]
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
Whole = BeforeValidator(_number)  # an integer as JSON Schema has it: 5 and 5.0, neither "5" nor true
Number = Annotated[float, Strict()]
HEAD_NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"
MAX_LABELS = 100
EXACT = 2**53  # any JSON reader keeps whole numbers up to this
_LABEL = r"^[^\x00-\x1f\x7f-\x9f]{1,100}$"
_UnitName = Annotated[int, Field(ge=0), BeforeValidator(_unit_name)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout_s: Number | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds from the acceptance on; a job that has not ended by then fails with 504. If left out: the "
        "longest that is allowed.",
    )

    def fingerprint(self) -> str:
        """The same text for the same request: defaults are filled in, and a seed that will be drawn is not."""
        return self.model_dump_json()


class JobBody(Body):
    webhook: Webhook | None = Field(None, description="With `Prefer: respond-async` alone.")


def example(**body: Any) -> ConfigDict:
    """A body that documentation shows, and that runs as it is."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class TextsRequest(JobBody):
    """Give `texts`, or `text` for a single one."""

    texts: Annotated[list[Text], Field(fail_fast=True)] | None = Field(None, min_length=1)
    text: Text | None = None
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="What becomes of `texts` where one cannot be used, because it is empty or too long: `fail` refuses "
        "them all; `skip` answers the others, and in its place a problem document as `error`.",
    )
    _unusable: dict[int, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> "TextsRequest":
        if (self.texts is None) == (self.text is None):
            raise ValueError("give either texts or text")
        return self

    @classmethod
    def skipping(cls, body: dict[str, Any]) -> Self:
        """The request of this body without the texts that are at fault.

        Raises ValidationError for any other fault, and where no text is left.
        """
        given = body.get("texts")
        if not isinstance(given, list):
            return cls.model_validate(body)
        texts: list[str] = []
        unusable: dict[int, str] = {}
        for number, text in enumerate(given):
            try:
                texts.append(_TEXT.validate_python(text))
            except ValidationError as error:
                unusable[number] = faults(error, cls)[0]["message"]
        request = cls.model_validate(body | {"texts": texts or given})
        request._unusable.update(unusable)
        return request

    @property
    def unusable(self) -> dict[int, str]:
        """Left out by `skip`: number of the text -> why."""
        return self._unusable

    def all_texts(self) -> list[str]:
        return self.texts if self.texts is not None else [self.text or ""]

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {sorted(self._unusable.items())}"


class ClassifyRequest(TextsRequest):
    model_config = example(texts=["A delightful film.", "It broke within a week."])

    head: AnyText = Field("sentiment", max_length=64, description="Name of the classifier.")


class FeaturizeRequest(TextsRequest):
    model_config = example(texts=["One text.", "Another one."], encoding="base64")

    pooling: Pooling = Field(
        "cell",
        description="The final cell itself (released code), its tanh (the paper), or the mean of the hidden vector "
        "over all bytes of the prepared text.",
    )
    encoding: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")


# Of what is written, in our requests and in those of OpenAI's API.
Count = Annotated[int, Field(ge=1), Whole]
Sentiment = Annotated[Number, Field(ge=-1, le=1)]
Clamp = Annotated[
    dict[_UnitName, Annotated[Number, Field(ge=-100, le=100)]],
    Field(max_length=64, json_schema_extra={"propertyNames": {"pattern": _UNIT}}),
]
Temperature = Annotated[Number, Field(ge=0, le=10)]
TopK = Annotated[int, Field(ge=1, le=256), Whole]
TopP = Annotated[Number, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63), Whole]
StopString = Annotated[AnyText, Field(min_length=1, max_length=64)]
Stop = Annotated[list[StopString], Field(max_length=16)]


class GenerateRequest(JobBody):
    model_config = example(prompt="The hotel was", sentiment=0.9, length=80, seed=1)

    prompt: AnyText = Field("", description="What the review begins with; may be empty.")
    sentiment: Sentiment | None = Field(None, description="Hold the sentiment unit at this sentiment.")
    clamp: Clamp = Field(default_factory=dict, description="Hold units at raw values; wins over `sentiment`.")
    length: Count = Field(200, description="Bytes to generate at most.")
    temperature: Temperature = Field(0.7, description="0 takes the likeliest byte.")
    top_k: TopK = 256
    top_p: TopP = 1.0
    seed: Seed | None = Field(None, description="The same seed gives the same text; drawn if left out.")
    n: Count = Field(1, description="Samples to return.")
    best_of: Count | None = Field(
        None, description="Samples to draw, n or more; the best n are returned. Not with `stream`."
    )
    rank_by: RankBy = Field(
        "likelihood",
        description="Which samples are best: the likeliest or, by the model's head `sentiment`, those nearest to what "
        "`sentiment` asks for: at 1 the most positive, at -1 the most negative. Not with `stream`.",
    )
    stop: Stop = Field(["\n"], description="End before any of these. A newline ends a review.")
    stream: Annotated[bool, Strict()] = Field(False, description="Answer with server-sent events.")
    log_probabilities: Annotated[bool, Strict()] = Field(
        False, description="Whether samples have `bytes`: each generated byte with its log-probability."
    )

    @model_validator(mode="after")
    def _samples_agree(self) -> "GenerateRequest":
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of is {self.best_of}, less than n, which is {self.n}")
        if self.stream and self.best_of is not None and self.best_of != self.n:
            raise ValueError("a stream cannot take the best of several: leave best_of or stream out")
        if self.rank_by == "sentiment" and self.sentiment is None:
            raise ValueError("rank_by is sentiment, and no sentiment is asked for: give one, or leave rank_by out")
        if self.rank_by == "sentiment" and self.stream:
            raise ValueError("a stream cannot be ranked: leave rank_by or stream out")
        return self

    @property
    def samples(self) -> int:
        """Number of samples to draw."""
        return max(self.n, self.best_of or 0)

    def job_fields(self) -> dict[str, Any]:
        """The request as the fields of a GenerateJob. A seed that was left out is drawn at every call."""
        # 53 bits: any JSON reader keeps them exact.
        seed = secrets.randbits(53) if self.seed is None else self.seed
        return self.model_dump(exclude={"timeout_s", "webhook"}) | {"seed": seed, "best_of": self.samples}


HeadName = Annotated[str, Field(pattern=HEAD_NAME)]
# As `model/checkpoints/head_store.py` keeps it: a terminal must be able to show it.
Label = Annotated[
    str,
    BeforeValidator(_label),
    Field(pattern=_LABEL),
    AfterValidator(_encodable),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _LABEL},
                {"type": "number", "minimum": -EXACT, "maximum": EXACT},
                {"type": "boolean"},
            ]
        }
    ),
]


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text
    label: Label = Field(description="Numbers and truth values are labels as in JSON lines: `1`, `true`.")


class FitRequest(JobBody):
    model_config = example(
        name="delivery",
        examples=[
            {"text": "It came a day early.", "label": "fast"},
            {"text": "On my doorstep the next morning.", "label": "fast"},
            {"text": "Three weeks late.", "label": "slow"},
            {"text": "I am still waiting for the parcel.", "label": "slow"},
        ],
    )

    name: HeadName = Field(description="What `POST /classify` calls it as `head`.")
    examples: Annotated[list[Example], Field(fail_fast=True)] = Field(
        min_length=2,
        description="Of two labels or more, 100 at most.",
    )
    unit_only: Annotated[bool, Strict()] = Field(
        False,
        description="For two labels: take the single unit that separates them best and a threshold, not all units.",
    )
    pooling: Pooling | None = Field(
        None,
        description="Features to fit on, as in `POST /featurize`. If left out: `mean`, the most accurate where we "
        "measured; for `unit_only` the `cell`, as in the paper.",
    )

    @property
    def features(self) -> Pooling:
        """The pooling to fit on."""
        return self.pooling or ("cell" if self.unit_only else "mean")

    @model_validator(mode="after")
    def _labels_differ(self) -> "FitRequest":
        labels = {example.label for example in self.examples}
        if len(labels) < 2:
            raise ValueError(
                f"all {len(self.examples)} examples have the label {min(labels)!r}: give some of another label as well"
            )
        if len(labels) > MAX_LABELS:
            raise ValueError(f"{len(labels)} different labels are more than the {MAX_LABELS} that a head may have")
        if self.unit_only and len(labels) > 2:
            raise ValueError(f"one unit separates two labels, and here are {len(labels)}: leave unit_only out")
        return self

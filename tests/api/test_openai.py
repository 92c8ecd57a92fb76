"""OpenAI's own client, plain and async, against a real stack: models, embeddings, completions and errors."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from api import keys
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway

TEXTS = ["One text.", "Another."]


@pytest.fixture(scope="module")
def theirs(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(theirs: OpenAI) -> None:
    assert [model.id for model in theirs.models.list()] == ["tiny"]
    for name in ("tiny", "tiny/step-1"):
        assert theirs.models.retrieve(name).id == "tiny"
    with pytest.raises(openai.NotFoundError) as missing:
        theirs.models.retrieve("gpt-5")
    assert missing.value.code == "unknown-model"
    assert "'gpt-5' here, only tiny" in missing.value.message


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings_are_the_features(theirs: OpenAI, client: httpx.Client, encoding: str | None) -> None:
    options: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    answer = theirs.embeddings.create(model="tiny", input=TEXTS, **options)
    features = [one["features"] for one in client.post("/featurize", json={"texts": TEXTS}).json()["results"]]
    vectors = [
        np.frombuffer(base64.b64decode(one.embedding), "<f4") if encoding == "base64" else one.embedding
        for one in answer.data
    ]
    np.testing.assert_array_equal(np.asarray(vectors, np.float32), np.asarray(features, np.float32))
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.model == "tiny"
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (17, 17)


def test_embeddings_of_a_string_with_a_pooling_of_ours(theirs: OpenAI, client: httpx.Client) -> None:
    answer = theirs.embeddings.create(model="tiny", input="One text.", dimensions=48, extra_body={"pooling": "mean"})
    ours = client.post("/featurize", json={"text": "One text.", "pooling": "mean"}).json()["results"][0]["features"]
    assert answer.data[0].embedding == pytest.approx(ours, abs=1e-6)


def test_completions_are_what_generate_writes(theirs: OpenAI, client: httpx.Client) -> None:
    ours = client.post("/generate", json={"prompt": "Good", "length": 40, "seed": 7, "n": 2}).json()
    answer = theirs.completions.create(model="tiny", prompt="Good", max_tokens=40, seed=7, n=2)
    assert [choice.text for choice in answer.choices] == [sample["text"] for sample in ours["results"]]
    assert [choice.finish_reason for choice in answer.choices] == [one["finish_reason"] for one in ours["results"]]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.model == "tiny"
    assert answer.id.startswith("cmpl-")
    written = sum(len(choice.text.encode()) for choice in answer.choices)
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": 4,
        "completion_tokens": written,
        "total_tokens": 4 + written,
    }


def test_options_of_ours_and_defaults_sent_by_habit(theirs: OpenAI, client: httpx.Client) -> None:
    fields = {"sentiment": 0.5, "clamp": {"3": 0.5}, "top_k": 20}
    ours = client.post("/generate", json={"prompt": "Good", "length": 20, "seed": 1, "stop": [], **fields}).json()
    habits: dict[str, Any] = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "user": "me",
        "suffix": None,
    }
    answer = theirs.completions.create(
        model="tiny", prompt="Good", max_tokens=20, seed=1, stop=[], **habits, extra_body=fields
    )
    assert answer.choices[0].text == ours["results"][0]["text"]
    ranked = theirs.completions.create(
        model="tiny", prompt="A", max_tokens=5, best_of=3, extra_body={"sentiment": 1, "rank_by": "sentiment"}
    )
    assert len(ranked.choices) == 1


def test_a_list_of_prompts_and_echo(theirs: OpenAI) -> None:
    answer = theirs.completions.create(model="tiny", prompt=["A", "B"], max_tokens=5, n=2, echo=True, stop="x", seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["A", "A", "B", "B"]
    assert answer.usage.prompt_tokens == 2
    alone = theirs.completions.create(model="tiny", prompt="B", max_tokens=5, n=2, stop="x", seed=3)
    assert [choice.text[1:] for choice in answer.choices[2:]] == [choice.text for choice in alone.choices]


def test_log_probabilities_of_what_is_written(theirs: OpenAI, client: httpx.Client) -> None:
    body = {"prompt": "Good", "length": 60, "seed": 5, "stop": ["q"], "log_probabilities": True}
    ours = client.post("/generate", json=body).json()["results"][0]
    answer = theirs.completions.create(model="tiny", prompt="Good", max_tokens=60, seed=5, stop=["q"], logprobs=0)
    found = answer.choices[0].logprobs
    assert found.token_logprobs == [one["log_probability"] for one in ours["bytes"]]
    stopped = ours["finish_reason"] == "stop"
    assert stopped or np.mean(found.token_logprobs) == pytest.approx(ours["mean_log_probability"], abs=1e-4)
    raw = b"".join(
        bytes([int(token[-2:], 16)]) if token.startswith("bytes:") else token.encode() for token in found.tokens
    )
    assert raw.decode(errors="replace").startswith(ours["text"])
    assert len(found.text_offset) == len(found.tokens)


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream(theirs: OpenAI, usage: bool) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "Good", "max_tokens": 60, "seed": 7, "n": 2, "stop": []}
    whole = theirs.completions.create(**options)
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    texts, reasons = {0: "", 1: ""}, {}
    counted = []
    for chunk in theirs.completions.create(**options, stream=True, **extra):
        if chunk.usage is not None:
            counted.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    assert sorted(texts.values()) == sorted(choice.text for choice in whole.choices)
    assert reasons == {0: "length", 1: "length"}
    assert [one.total_tokens for one in counted] == ([whole.usage.total_tokens] if usage else [])


def test_a_stream_that_fails_within(theirs: OpenAI) -> None:
    stream = theirs.completions.create(
        model="tiny", prompt="A", max_tokens=5, stream=True, extra_body={"clamp": {"99": 1}}
    )
    with pytest.raises(openai.APIError, match="unit 99 does not exist"):
        list(stream)


def test_the_end_of_a_stream_is_theirs(stack: Stack) -> None:
    body = {"model": "tiny", "prompt": "A", "max_tokens": 3, "stream": True, "echo": True}
    lines = httpx.post(f"{stack.url}/v1/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert '"text": "A"' in lines[0]


def test_the_async_client(stack: Stack) -> None:
    async def ask() -> tuple[int, str]:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client:
            vectors, completion = await asyncio.gather(
                client.embeddings.create(model="tiny", input=TEXTS),
                client.completions.create(model="tiny", prompt="A", max_tokens=8, stream=True),
            )
            return len(vectors.data), "".join([one.choices[0].text async for one in completion if one.choices])

    count, text = asyncio.run(ask())
    assert count == 2
    assert text


def test_chat_says_why_not(theirs: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="holds no conversation: use POST /v1/completions"):
        theirs.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize(
    ("path", "body", "said", "param"),
    [
        ("embeddings", {"input": [1, 2]}, "this model reads bytes: send text", "input"),
        ("embeddings", {"input": [[1, 2]]}, "this model reads bytes: send text", "input"),
        ("embeddings", {"input": ["fine", ""]}, "the text is empty", "input"),
        ("embeddings", {"input": []}, "at least 1 item", "input"),
        ("embeddings", {"input": "a", "dimensions": 12}, "vectors of 48, which cannot be shortened", "dimensions"),
        ("embeddings", {"input": "a", "encoding_format": "int8"}, "'float' or 'base64'", "encoding_format"),
        ("completions", {"prompt": [1, 2]}, "this model reads bytes: send text", "prompt"),
        ("completions", {"presence_penalty": 0.5}, "this model does not have it: leave it out", "presence_penalty"),
        ("completions", {"logit_bias": {"50256": -100}}, "this model does not have it", "logit_bias"),
        ("completions", {"logprobs": 5}, "less than or equal to 0", "logprobs"),
        ("completions", {"logprobs": 0, "echo": True}, "leave one out", None),
        ("completions", {"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ("completions", {"temperature": 11}, "temperature: Input should be less than or equal to 10", "temperature"),
        ("completions", {"n": 3, "best_of": 2}, "best_of is 2, less than n", None),
        ("completions", {"prompt": ["a", "b"], "stream": True}, "a stream has one prompt", None),
        ("completions", {"max_token": 5}, "did you mean 'max_tokens'?", "max_token"),
        ("completions", {"prompt": ["a"] * 70}, "samples of all prompts: 70 is over the limit of 64", None),
        ("completions", {"clamp": {"99": 0.1}}, "unit 99 does not exist", None),
        ("completions", {"prompt": ["a", "b"], "clamp": {"99": 0.1}}, "unit 99 does not exist", None),
        ("completions", {"model": "davinci"}, "no model 'davinci' here, only tiny", "model"),
    ],
)
def test_errors_are_in_their_form(
    theirs: OpenAI, path: str, body: dict[str, object], said: str, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        theirs.post(f"/{path}", body={"model": "tiny", **body}, cast_to=object)
    error = caught.value
    assert said in error.message
    assert (error.param or "").split(".")[0] == (param or "")
    assert error.status_code in (400, 404, 413)
    assert error.type in ("invalid_request_error", "not_found_error")
    body = error.response.json()["error"]
    assert sorted(body) == ["code", "message", "param", "type"]


def test_addresses_keys_and_failures_too(stack: Stack) -> None:
    key, digest = keys.generate()
    settings = {"NEURON_API_KEYS": keys.entry("alice", ["use"], digest)}
    with gateway(stack.environment["NEURON_REDIS_URL"], **settings) as url:
        with OpenAI(base_url=f"{url}/v1", api_key=key) as client:
            assert client.embeddings.create(model="tiny", input="a").data
            with pytest.raises(openai.NotFoundError, match="Not Found"):
                client.images.generate(prompt="a cat")
        with (
            OpenAI(base_url=f"{url}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError) as error,
        ):
            client.models.list()
        assert error.value.code == "unauthorized"
        answer = httpx.post(f"{url}/v1/embeddings", headers={"Authorization": f"Bearer {key}"}, content="{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "not-json")


def test_no_worker_is_retried_by_the_client_and_said_in_the_end(redis_url: str) -> None:
    with gateway(redis_url) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="no worker serves a model now") as error:
            client.embeddings.create(model="tiny", input="a")
        assert error.value.status_code == 503
        assert error.value.response.headers["retry-after"]


def test_a_repeated_request_is_computed_once(theirs: OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": ["A", "B"], "max_tokens": 20, "stop": []}
    headers = {"Idempotency-Key": "of-two-prompts"}
    first, again = (theirs.completions.create(**options, extra_headers=headers) for _ in range(2))
    assert [choice.text for choice in first.choices] == [choice.text for choice in again.choices]
    assert first.id == again.id
    raw = theirs.completions.with_raw_response.create(**options, extra_headers=headers)
    assert raw.headers["idempotency-replayed"] == "true"
    assert raw.headers["x-job-id"] == first.id.removeprefix("cmpl-")
    streamed = theirs.completions.create(model="tiny", prompt="A", stream=True, extra_headers={"Idempotency-Key": "s"})
    name = {chunk.id for chunk in streamed}
    again = theirs.completions.create(model="tiny", prompt="A", stream=True, extra_headers={"Idempotency-Key": "s"})
    assert {chunk.id for chunk in again} == name


def test_a_client_that_goes_away_cancels_its_prompts(stack: Stack) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{stack.url}/v1/completions",
            json={"model": "tiny", "prompt": ["a", "b"], "max_tokens": 10_000, "stop": []},
            timeout=0.5,
        )
    cancelled = 'neuron_cancelled_jobs_total{reason="disconnect"}'
    with stack.client() as client:
        wait_until(lambda: f"{cancelled} 0" not in client.get("/metrics").text, what="the cancellation")

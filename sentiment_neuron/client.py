"""`Client` and `AsyncClient`: the methods of `Neuron`, answered by a service. They need httpx.

Calls outlive what passes: a full queue, a gateway or Redis that restarts, a lost connection. A request is sent again
with the same `Idempotency-Key`, so that its job is made once; a stream continues after the last event that came.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Any, Self, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from api.schemas.responses import FittedHead
from contract.jobs import HeadInfo, ModelInfo, Pooling
from sentiment_neuron import asks
from sentiment_neuron.asks import AnswerT, Ask
from sentiment_neuron.errors import InvalidRequestError, NeuronError
from sentiment_neuron.exchanges import WAIT_S, Exchange, Streamed
from sentiment_neuron.requests import FitOptions, GenerateOptions, StreamOptions, Texts, fit_body, generate_body
from sentiment_neuron.results import Classification, Sample, Trace

log = logging.getLogger(__name__)

# A silent stream sends a comment every few seconds; an answer in place comes after WAIT_S at the latest.
_TIMEOUT = httpx.Timeout(10, read=WAIT_S + 10)
_URL = "http://127.0.0.1:8000"
_BROKE_OFF = "the stream ended before its text did"


class _Base:
    """What both clients hold.

    url: of the gateway, with the path where a proxy puts it. key: an API key. timeout_s: how long a job may take,
    waiting included; None is the service's own limit. patience_s: for how long to try again what fails for reasons that
    pass. Raises InvalidRequestError for arguments that cannot work.
    """

    def __init__(
        self, url: str = _URL, key: str | None = None, *, timeout_s: float | None = None, patience_s: float = 60
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequestError(f"{url!r} is not the URL of a service: it begins with http:// or https://")
        if key is not None and not (key.isascii() and key.isprintable() and key):
            raise InvalidRequestError("the key is empty, or holds other characters than printable ASCII")
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            self._open(base_url=self._url, headers=headers, timeout=_TIMEOUT)
        except httpx.InvalidURL as error:
            raise InvalidRequestError(f"{url!r} is not a URL: {error}") from error

    def _open(self, **options: Any) -> None:
        raise NotImplementedError

    def _streamed(self, prompt: str, options: StreamOptions) -> Streamed:
        return Streamed(asks.encoded(generate_body(prompt, options, stream=True), self._timeout_s), self._patience_s)


class Client(_Base):
    """A service, from any thread. Close it, or use it as a context, to end its connections.

    Every method raises InvalidRequestError for what is not valid, RequestFailedError for what the model cannot do, and
    ServiceError for the rest: no service, no key, a queue that stays full. All of these are NeuronError.
    """

    def _open(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def classify(self, texts: Texts, head: str | None = None) -> list[Classification]:
        """A result for every text, in order. head: the model's own or a fitted one; None is `sentiment`."""
        return self._do(asks.classify(texts, head, self._timeout_s))

    def classify_each(self, texts: Texts, head: str | None = None) -> list[Classification | NeuronError]:
        """As `classify`, but a text that cannot be used leaves its error in its place and does not fail the others."""
        return self._do(asks.classify_each(texts, head, self._timeout_s))

    def featurize(self, texts: Texts, pooling: Pooling = "cell") -> NDArray[np.float32]:
        """The feature vector of every text, (texts, units); pooling as of `Neuron.featurize`."""
        return self._do(asks.featurize(texts, pooling, self._timeout_s))

    def trace(self, text: str, units: Iterable[int] | None = None, head: str | None = None) -> Trace:
        """The value of units after every byte of a text. units: the sentiment unit if None.

        head: the name of one whose opinion of the text up to every byte is wanted as well.
        """
        answer = self._do(asks.trace(text, units, head, self._timeout_s))
        return Trace.of(text, answer)

    def generate(self, prompt: str = "", **options: Unpack[GenerateOptions]) -> list[Sample]:
        """Continue `prompt`: `n` samples, the best first. Options as of `Neuron.generate`."""
        return self._do(asks.generate(prompt, options, self._timeout_s))

    def stream(self, prompt: str = "", **options: Unpack[StreamOptions]) -> Generator[str, None, None]:
        """Continue `prompt` by one sample; yield its text as it comes, in whole characters.

        Options as of `Neuron.stream`. Closing the generator ends the computation. One thread at a time may use it.
        """
        return self._follow(self._streamed(prompt, options))

    def fit_head(
        self, name: str, texts: Iterable[str], labels: Iterable[str | float], **options: Unpack[FitOptions]
    ) -> HeadInfo:
        """Fit a classifier of your own on labelled texts, for `classify` with its name as `head`."""
        return self._do(asks.fit_head(fit_body(name, texts, labels, options), self._timeout_s))

    def heads(self) -> list[FittedHead]:
        """The heads that were fitted here."""
        return self._do(asks.heads())

    def delete_head(self, name: str) -> None:
        """Delete a fitted head for good."""
        self._do(asks.delete_head(name))

    def models(self) -> list[ModelInfo]:
        """The models that are served now, with their heads."""
        return self._do(asks.models())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _do(self, ask: Ask[AnswerT]) -> AnswerT:
        exchange = Exchange(ask, self._patience_s)
        while exchange.content is None:
            try:
                response = self._http.request(**exchange.request)
            except httpx.TransportError as error:
                pause_s = exchange.patience.after_break(error, self._url)
            else:
                pause_s = exchange.answered(response.status_code, response.headers, response.content)
            time.sleep(pause_s)
        return ask.read(exchange.content)

    def _follow(self, streamed: Streamed) -> Generator[str, None, None]:
        try:
            while not streamed.ended:
                pause_s = 0.0
                try:
                    with self._http.stream(**streamed.request) as response:
                        if response.status_code == 200:
                            streamed.job = response.headers.get("x-job-id", streamed.job)
                            for line in response.iter_lines():
                                if text := streamed.line(line):
                                    yield text
                            if not streamed.ended:
                                raise httpx.ReadError(_BROKE_OFF)
                        else:
                            content = response.read()
                            pause_s = streamed.patience.after_answer(response.status_code, response.headers, content)
                except httpx.TransportError as error:
                    pause_s = streamed.patience.after_break(error, self._url)
                time.sleep(pause_s)
        finally:
            if cancel := streamed.cancel():
                try:
                    self._http.request(**cancel, timeout=2)
                except httpx.TransportError as error:
                    log.warning("job %s could not be cancelled and goes on: %s", streamed.job, error)


class AsyncClient(_Base):
    """`Client` for asyncio: its methods, awaited."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def classify(self, texts: Texts, head: str | None = None) -> list[Classification]:
        return await self._do(asks.classify(texts, head, self._timeout_s))

    async def classify_each(self, texts: Texts, head: str | None = None) -> list[Classification | NeuronError]:
        return await self._do(asks.classify_each(texts, head, self._timeout_s))

    async def featurize(self, texts: Texts, pooling: Pooling = "cell") -> NDArray[np.float32]:
        return await self._do(asks.featurize(texts, pooling, self._timeout_s))

    async def trace(self, text: str, units: Iterable[int] | None = None, head: str | None = None) -> Trace:
        answer = await self._do(asks.trace(text, units, head, self._timeout_s))
        return Trace.of(text, answer)

    async def generate(self, prompt: str = "", **options: Unpack[GenerateOptions]) -> list[Sample]:
        return await self._do(asks.generate(prompt, options, self._timeout_s))

    def stream(self, prompt: str = "", **options: Unpack[StreamOptions]) -> AsyncGenerator[str]:
        """For `async for`; end it early with `aclose`, as contextlib.aclosing does, to end the computation."""
        return self._follow(self._streamed(prompt, options))

    async def fit_head(
        self, name: str, texts: Iterable[str], labels: Iterable[str | float], **options: Unpack[FitOptions]
    ) -> HeadInfo:
        return await self._do(asks.fit_head(fit_body(name, texts, labels, options), self._timeout_s))

    async def heads(self) -> list[FittedHead]:
        return await self._do(asks.heads())

    async def delete_head(self, name: str) -> None:
        await self._do(asks.delete_head(name))

    async def models(self) -> list[ModelInfo]:
        return await self._do(asks.models())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def _do(self, ask: Ask[AnswerT]) -> AnswerT:
        exchange = Exchange(ask, self._patience_s)
        while exchange.content is None:
            try:
                response = await self._http.request(**exchange.request)
            except httpx.TransportError as error:
                pause_s = exchange.patience.after_break(error, self._url)
            else:
                pause_s = exchange.answered(response.status_code, response.headers, response.content)
            await asyncio.sleep(pause_s)
        return ask.read(exchange.content)

    async def _follow(self, streamed: Streamed) -> AsyncGenerator[str]:
        try:
            while not streamed.ended:
                pause_s = 0.0
                try:
                    async with self._http.stream(**streamed.request) as response:
                        if response.status_code == 200:
                            streamed.job = response.headers.get("x-job-id", streamed.job)
                            async for line in response.aiter_lines():
                                if text := streamed.line(line):
                                    yield text
                            if not streamed.ended:
                                raise httpx.ReadError(_BROKE_OFF)
                        else:
                            content = await response.aread()
                            pause_s = streamed.patience.after_answer(response.status_code, response.headers, content)
                except httpx.TransportError as error:
                    pause_s = streamed.patience.after_break(error, self._url)
                await asyncio.sleep(pause_s)
        finally:
            if cancel := streamed.cancel():
                try:
                    await self._http.request(**cancel, timeout=2)
                except httpx.TransportError as error:
                    log.warning("job %s could not be cancelled and goes on: %s", streamed.job, error)

"""`Client` and `AsyncClient` in front of a real gateway and worker, also through a network that breaks."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from sentiment_neuron import (
    AsyncClient,
    Classification,
    Client,
    InvalidRequestError,
    NeuronError,
    RequestFailedError,
    ServiceError,
)
from tests.conftest import SENTIMENT_UNIT, TINY, Stack, wait_until
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.gateway import metric

TEXTS = ["A delightful film.", "It broke."]


class Awaited:
    """An `AsyncClient` with the methods of `Client`: each is awaited on a loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))

    def stream(self, *arguments: Any, **options: Any) -> Iterator[str]:
        texts = self._client.stream(*arguments, **options)

        def awaited() -> Iterator[str]:
            try:
                while (text := self._loop.run_until_complete(anext(texts, None))) is not None:
                    yield text
            finally:
                self._loop.run_until_complete(texts.aclose())

        return awaited()

    def __enter__(self) -> "Awaited":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.close()


KINDS = pytest.mark.parametrize("kind", [Client, Awaited], ids=["plain", "async"])


@pytest.fixture(params=[Client, Awaited], ids=["plain", "async"])
def neuron(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Client]:
    with request.param(stack.url) as opened:
        yield opened


@pytest.fixture
def proxy(stack: Stack) -> Iterator[CuttingProxy]:
    with cutting_proxy("127.0.0.1", int(stack.environment["NEURON_API_PORT"])) as running:
        yield running


def test_texts_are_classified_as_over_http(neuron: Client, client: httpx.Client) -> None:
    found = neuron.classify(TEXTS)
    shown = client.post("/classify", json={"texts": TEXTS}).json()["results"]
    assert [result.probabilities for result in found] == [pytest.approx(result["probabilities"]) for result in shown]
    assert [vars(result).keys() for result in found] == [result.keys() for result in shown]
    assert neuron.classify("A delightful film.", head="length")[0].label in ("short", "medium", "long")


def test_of_each_text_comes_a_result_or_its_error(neuron: Client) -> None:
    good, bad, other = neuron.classify_each(["A delightful film.", "", "It broke."])
    assert isinstance(good, Classification)
    assert isinstance(other, Classification)
    assert isinstance(bad, InvalidRequestError)
    assert "empty" in str(bad)


def test_features_are_an_array(neuron: Client, client: httpx.Client) -> None:
    found = neuron.featurize(TEXTS, pooling="mean")
    assert found.shape == (2, TINY.units)
    assert found.dtype == np.float32
    shown = client.post("/featurize", json={"texts": TEXTS, "pooling": "mean"}).json()["results"]
    np.testing.assert_allclose(found, [row["features"] for row in shown], rtol=1e-5)


def test_a_trace_knows_the_sentiment_unit(neuron: Client) -> None:
    trace = neuron.trace("Great.", units=[3, SENTIMENT_UNIT, 3])
    assert trace.units == [3, SENTIMENT_UNIT]
    assert trace.values.shape == (len("\n Great. "), 2)
    assert trace.sentiment is not None
    assert [heat_map.unit for heat_map in trace.heat_maps] == trace.units
    assert neuron.trace("Great.", units=[3]).sentiment is None
    said = neuron.trace("Great.", head="sentiment").probabilities
    assert said is not None
    assert said[-1].tolist() == pytest.approx(list(neuron.classify(["Great."])[0].probabilities.values()), abs=1e-5)


def test_a_stream_gives_the_text_of_generate(neuron: Client) -> None:
    options: dict[str, Any] = {"length": 60, "seed": 5, "stop": [], "temperature": 1.0}
    whole = neuron.generate("The film", **options)[0]
    assert (whole.seed, whole.finish_reason) == (5, "length")
    assert "".join(neuron.stream("The film", **options)) == whole.text
    ranked = neuron.generate("The film", n=2, best_of=4, seed=5, length=8, stop=[], log_probabilities=True)
    assert [len(sample.bytes or ()) for sample in ranked] == [8, 8]


def test_heads_are_fitted_listed_used_and_deleted(neuron: Client) -> None:
    texts = [f"{number} {word}" for number in range(4) for word in ("good", "bad")]
    fitted = neuron.fit_head("of-the-client", texts, ["yes", "no"] * 4)
    try:
        assert fitted.labels == ["no", "yes"]
        assert ("of-the-client", True) in [(head.name, head.usable) for head in neuron.heads()]
        assert neuron.classify("1 good", head="of-the-client")[0].label in fitted.labels
    finally:
        neuron.delete_head("of-the-client")
    with pytest.raises(RequestFailedError) as missing:
        neuron.delete_head("of-the-client")
    assert missing.value.code == "unknown-head"
    with pytest.raises(InvalidRequestError, match="one label for each text"):
        neuron.fit_head("other", texts, ["yes"])


def test_models_are_those_that_are_served(neuron: Client) -> None:
    (model,) = neuron.models()
    assert (model.name, model.units, model.sentiment_unit) == ("tiny", TINY.units, SENTIMENT_UNIT)


def test_every_refusal_is_of_one_family(neuron: Client) -> None:
    with pytest.raises(InvalidRequestError, match="text 1 is int, not str"):
        neuron.classify(["fine", 3])  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match="NEURON_API_MAX_TEXTS"):
        neuron.classify(["x"] * 5000)
    with pytest.raises(RequestFailedError, match="no head 'nothing'") as unknown:
        neuron.classify("fine", head="nothing")
    assert unknown.value.code == "unknown-head"
    with pytest.raises(RequestFailedError, match="unit 999"):
        neuron.trace("fine", units=[999])
    with pytest.raises(InvalidRequestError, match="lenght is not an option here"):
        neuron.stream("The film", lenght=3)  # type: ignore[call-arg]


@KINDS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:8000",), "begins with http"),
        (("http://127.0.0.1:port",), "not a URL"),
        (("http://127.0.0.1:8000", "two\nlines"), "printable ASCII"),
    ],
)
def test_what_cannot_work_is_refused_at_once(kind: type[Client], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        kind(*arguments)


@KINDS
def test_a_service_that_is_not_there_is_named(kind: type[Client]) -> None:
    with kind("http://127.0.0.1:9", patience_s=0.2) as nobody:
        for ask in (nobody.models, lambda: list(nobody.stream("x"))):
            with pytest.raises(ServiceError, match=r"no answer from http://127\.0\.0\.1:9: ") as error:
                ask()
            assert (error.value.code, error.value.status) == ("unreachable", None)


@KINDS
def test_a_request_whose_answer_is_lost_makes_one_job(kind: type[Client], stack: Stack, proxy: CuttingProxy) -> None:
    before = metric(stack.url, 'neuron_accepted_jobs_total{kind="classify"}')
    proxy.cuts = [0, 40]  # no byte of the first answer comes, and not all of the second
    with kind(proxy.url) as neuron:
        results = neuron.classify(TEXTS)
    assert len(results) == 2
    assert proxy.connections == 3
    assert metric(stack.url, 'neuron_accepted_jobs_total{kind="classify"}') == before + 1


@KINDS
def test_a_stream_goes_on_where_it_broke(kind: type[Client], stack: Stack, proxy: CuttingProxy) -> None:
    options: dict[str, Any] = {"length": 3000, "seed": 7, "stop": [], "temperature": 1.0}
    before = metric(stack.url, 'neuron_accepted_jobs_total{kind="generate"}')
    proxy.cuts = [0, 900, 700, 1500]
    with kind(proxy.url) as neuron:
        pieces = list(neuron.stream("The film", **options))
        assert metric(stack.url, 'neuron_accepted_jobs_total{kind="generate"}') == before + 1
        assert proxy.connections == 5
        assert "".join(pieces) == neuron.generate("The film", **options)[0].text


@KINDS
def test_a_stream_that_is_closed_computes_no_more(kind: type[Client], stack: Stack) -> None:
    before = metric(stack.url, 'neuron_cancelled_jobs_total{reason="request"}')
    with kind(stack.url) as neuron:
        texts = neuron.stream("The film", length=1_000_000, stop=[])
        next(texts)
        texts.close()
        wait_until(lambda: metric(stack.url, 'neuron_cancelled_jobs_total{reason="request"}') == before + 1)


@KINDS
def test_an_answer_that_takes_longer_than_a_request_is_waited_for(kind: type[Client], stack: Stack) -> None:
    with stack.gateway(NEURON_API_WAIT_S="0.05") as impatient, kind(impatient.url) as neuron:
        (sample,) = neuron.generate("The film", length=2000, seed=1, stop=[])
        assert len(sample.text) > 500
        assert metric(impatient.url, "neuron_replayed_requests_total") > 0
        with kind(impatient.url, timeout_s=0.5) as hasty, pytest.raises(RequestFailedError, match=r"within 0\.5 s"):
            hasty.generate("The film", length=1_000_000, stop=[])


@KINDS
def test_keys_are_sent_and_a_limit_is_waited_for(kind: type[Client], stack: Stack) -> None:
    entry = "alice:use:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"  # of "alice"
    with stack.gateway(NEURON_API_KEYS=entry, NEURON_API_KEY_REQUESTS_PER_S="2") as limited:
        with kind(limited.url, patience_s=0) as nobody, pytest.raises(ServiceError, match="key") as error:
            nobody.classify(TEXTS)
        assert (error.value.code, error.value.status) == ("unauthorized", 401)
        with kind(limited.url, "alice") as alice:
            for _ in range(5):
                assert len(alice.models()) == 1


@pytest.mark.slow
@KINDS
def test_a_gateway_may_restart_meanwhile(kind: type[Client], stack: Stack) -> None:
    options: dict[str, Any] = {"length": 3000, "seed": 7, "stop": [], "temperature": 1.0}
    with stack.gateway() as other, kind(other.url) as neuron:
        pieces = []
        for number, piece in enumerate(neuron.stream("The film", **options)):
            pieces.append(piece)
            if number == 0:
                other.kill("api")
                threading.Timer(0.3, other.spawn, ["api"]).start()
        assert "".join(pieces) == neuron.generate("The film", **options)[0].text


def test_without_httpx_its_extra_is_named() -> None:
    script = "import sys; sys.modules['httpx'] = None\nfrom sentiment_neuron import Neuron, Client"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Client needs httpx: pip install 'sentiment-neuron[client]'" in done.stderr


def test_its_errors_are_those_of_neuron() -> None:
    assert issubclass(ServiceError, NeuronError)

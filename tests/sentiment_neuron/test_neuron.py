"""`Neuron` gives what a worker gives, refuses what the service refuses, and stops when its caller has left."""

import base64
import gc
import json
import re
import shutil
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from api.schemas.requests import GenerateRequest
from contract.jobs import AnyJob, ClassifyJob, FeaturizeJob, GenerateJob, TraceJob
from engine import serving
from engine.engine import Engine
from engine.execute import execute
from engine.observer import Observer
from model.checkpoints import checkpoint, head_store, volumes
from model.checkpoints.stored_head import stored_head
from model.heads.cross_validation import fit_unit_cv
from sentiment_neuron import (
    InvalidRequestError,
    LoadError,
    Neuron,
    NeuronError,
    NeuronFeatures,
    RequestFailedError,
    Sample,
)
from sentiment_neuron.heads import heads_directory
from tests.conftest import SENTIMENT_UNIT, TINY, wait_until

BASE: dict[str, Any] = {"id": "a-job-of-the-test", "timeout_s": 60.0}
TEXTS = ["A delightful film.", "A waste of time & money", "næsten 🙂"]
ENDLESS: dict[str, Any] = {"length": 10_000_000, "stop": [], "seed": 1}


@pytest.fixture(scope="module")
def neuron(tiny_volume: Path) -> Iterator[Neuron]:
    with Neuron.load(tiny_volume, dtype="float32", rows=8) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def by_worker(tiny_volume: Path) -> Iterator[Callable[[AnyJob], dict[str, Any]]]:
    """What a worker makes of a job."""
    served = serving.load(volumes.latest(tiny_volume), "auto", "float32", 8)
    engine = Engine(8)
    engine.start()
    yield lambda job: execute(job, served, engine)
    engine.close()


def engine_of(neuron: Neuron) -> Engine:
    return neuron._runner._engine


def wait_idle(neuron: Neuron) -> None:
    wait_until(lambda: engine_of(neuron).rows_active == engine_of(neuron).rows_waiting == 0, what="an idle engine")


def test_classify(neuron: Neuron, by_worker: Callable[[AnyJob], dict[str, Any]]) -> None:
    for head in ("sentiment", "length"):
        expected = by_worker(ClassifyJob(**BASE, texts=TEXTS, head=head))["results"]
        found = neuron.classify(TEXTS, head)
        assert [result.label for result in found] == [result["label"] for result in expected]
        assert [result.score for result in found] == pytest.approx([result["score"] for result in expected], abs=1e-6)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.probabilities == pytest.approx(theirs["probabilities"], abs=1e-6)
            assert (ours.unit_sentiment, ours.unit_value) == pytest.approx((theirs["sentiment"], theirs["unit_value"]))
            assert (ours.margin, ours.expected_value) == (pytest.approx(theirs["margin"], abs=1e-6), None)
    (alone,) = neuron.classify(TEXTS[0])
    assert alone.score == pytest.approx(neuron.classify(iter(TEXTS))[0].score, abs=1e-6)


@pytest.mark.parametrize("pooling", ["cell", "tanh", "mean"])
def test_featurize(
    neuron: Neuron, by_worker: Callable[[AnyJob], dict[str, Any]], tiny_volume: Path, pooling: Any
) -> None:
    found = neuron.featurize(np.array(TEXTS, dtype=object), pooling)
    assert (found.shape, found.dtype, found.flags.writeable) == ((3, TINY.units), np.float32, True)
    packed = by_worker(FeaturizeJob(**BASE, texts=TEXTS, pooling=pooling))["features"]
    expected = np.frombuffer(base64.b64decode(packed), dtype="<f4").reshape(3, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    of_pipeline = NeuronFeatures(tiny_volume, pooling).fit(TEXTS).transform(TEXTS)
    np.testing.assert_allclose(found, of_pipeline, atol=0.1 * np.abs(found).max())  # which may be in bfloat16


def test_trace(neuron: Neuron, by_worker: Callable[[AnyJob], dict[str, Any]]) -> None:
    text = "Not bad æ &amp; <b>"
    answer = by_worker(TraceJob(**BASE, text=text, units=[3, SENTIMENT_UNIT]))
    found = neuron.trace(text, np.array([3, SENTIMENT_UNIT, 3]))
    assert found.units == [3, SENTIMENT_UNIT]
    np.testing.assert_allclose(found.values, [step["values"] for step in answer["bytes"]], atol=1e-6)
    assert found.sentiment is not None
    np.testing.assert_allclose(found.sentiment, [step["sentiment"] for step in answer["bytes"]], atol=1e-6)
    assert found.spans == [(step["start"], step["end"]) for step in answer["bytes"]]
    assert [heat_map.unit for heat_map in found.heat_maps] == [3, SENTIMENT_UNIT]
    assert found.html().startswith("<!doctype html>")
    shown = found._repr_html_()
    assert "&lt;" in shown
    assert f"unit {SENTIMENT_UNIT}, sentiment" in shown
    assert found.probabilities is None
    plain = neuron.trace(text, head="sentiment")
    assert (plain.units, plain.labels) == ([SENTIMENT_UNIT], ["negative", "positive"])
    assert plain.probabilities is not None
    (said,) = neuron.classify([text])
    np.testing.assert_allclose(plain.probabilities[-1], list(said.probabilities.values()), atol=1e-5)
    assert neuron.trace(text, [3]).sentiment is None


def test_generate_and_stream(neuron: Neuron, by_worker: Callable[[AnyJob], dict[str, Any]]) -> None:
    options: dict[str, Any] = {"sentiment": 0.5, "length": 40, "temperature": 1.2, "seed": 3, "stop": ["e"]}
    fields = options | {"clamp": {}, "top_k": 256, "top_p": 1.0, "n": 2, "best_of": 3}
    expected = by_worker(GenerateJob(**BASE, **fields, prompt="It was"))
    found = neuron.generate("It was", **options, n=2, best_of=3)
    assert [sample.text for sample in found] == [result["text"] for result in expected["results"]]
    assert found == [Sample(**result, seed=3) for result in expected["results"]]
    ranked = neuron.generate("It was", sentiment=1, rank_by="sentiment", best_of=4, n=2, length=20, seed=1)
    assert all(sample.positive is not None for sample in ranked)
    (whole,) = neuron.generate("It was", **options)
    pieces = list(neuron.stream("It was", **options))
    assert "".join(pieces) == whole.text
    assert all(pieces)
    (drawn,) = neuron.generate(length=20)
    assert neuron.generate(length=20, seed=drawn.seed) == [drawn]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda neuron: neuron.classify(b"Good."), "texts is bytes, not a list"),
        (lambda neuron: neuron.classify([b"Good."]), "text 0 is bytes, not str"),
        (lambda neuron: neuron.classify({"Good.", "Bad."}), "texts is set, not a list"),
        (lambda neuron: neuron.classify({"Good.": 1}), "texts is dict, not a list"),
        (lambda neuron: neuron.classify(None), "texts is NoneType, not a list"),
        (lambda neuron: neuron.classify(pd.DataFrame({"text": ["Good."]})), "DataFrame, not a list: give one column"),
        (lambda neuron: neuron.featurize(np.array("Good.")), "texts is ndarray, not a list"),
        (lambda neuron: neuron.trace(b"Good."), "text is bytes, not str"),
        (lambda neuron: neuron.trace("Good.", 3), "units is int, not a list"),
        (lambda neuron: neuron.trace("Good.", [[1]]), r"unit \[1\] is not a whole number"),
        (lambda neuron: neuron.generate(b"Good."), "prompt is bytes, not str"),
        (
            lambda neuron: neuron.generate("Good.", lenght=3),
            "lenght is not an option here; these are: sent",
        ),
        (lambda neuron: neuron.generate("Good.", timeout_s=1), "timeout_s is not an option here"),
        (lambda neuron: neuron.generate("Good.", stream=True), "stream is not an option here"),
        (lambda neuron: neuron.generate("Good.", body=1), "body is not an option here"),
        (lambda neuron: neuron.stream("Good.", n=2), "n is not an option here"),
    ],
)
def test_arguments_of_other_types_and_unknown_options_are_named(
    neuron: Neuron, call: Callable[[Neuron], object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        call(neuron)


def test_the_documented_defaults_are_those_of_the_service() -> None:
    documented = re.sub(r"\s+", " ", Neuron.generate.__doc__ or "")
    for name, field in GenerateRequest.model_fields.items():
        if name not in ("prompt", "stream", "timeout_s", "webhook"):
            default = json.dumps(field.get_default(call_default_factory=True))
            as_python = {"null": "None", "false": "False"}.get(default, default)
            assert f"{name}={as_python}" in documented


def test_a_stream_comes_while_it_is_computed_and_ends_with_its_iterator(neuron: Neuron) -> None:
    stream = neuron.stream("It", **ENDLESS)
    assert next(stream)
    assert engine_of(neuron).rows_active == 1
    stream.close()
    wait_idle(neuron)
    for _ in neuron.stream("It", **ENDLESS):  # dropped, not closed
        break
    gc.collect()
    wait_idle(neuron)


def test_an_interrupted_call_computes_no_more(neuron: Neuron, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C in a notebook, while the engine computes."""
    follow = neuron._runner.follow

    def interrupted(job: Any) -> Any:
        following = follow(job)
        next(following)
        following.throw(KeyboardInterrupt)
        return following

    monkeypatch.setattr(neuron._runner, "follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(neuron.stream("It", **ENDLESS))
    wait_idle(neuron)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda neuron: neuron.classify(["a", " "]), "texts 1: the text is empty"),
        (lambda neuron: neuron.classify([]), "texts: List should have at least 1 item"),
        (lambda neuron: neuron.classify(["a", 1]), "text 1 is int, not str"),
        (lambda neuron: neuron.classify("a\udcff"), "texts 0: character 1 is a lone surrogate"),
        (lambda neuron: neuron.featurize("a", "median"), "pooling: Input should be 'cell', 'tanh' or 'mean'"),
        (lambda neuron: neuron.trace(""), "text: the text is empty"),
        (lambda neuron: neuron.trace("a", [-1]), "units 0: Input should be greater than or equal to 0"),
        (lambda neuron: neuron.generate(n=3, best_of=2), "best_of is 2, less than n, which is 3"),
        (lambda neuron: neuron.generate(temprature=1), "temprature is not an option here"),
        (lambda neuron: neuron.stream(sentiment=2), "sentiment: Input should be less than or equal to 1"),
    ],
)
def test_what_the_service_refuses_is_refused(neuron: Neuron, call: Callable[[Neuron], Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        call(neuron)
    assert str(refused.value).startswith(message)


def test_what_the_model_cannot_do(neuron: Neuron) -> None:
    for call, code, message in (
        (lambda: neuron.trace("a", [TINY.units]), "unknown-unit", f"unit {TINY.units} does not exist"),
        (lambda: neuron.generate(clamp={99: 1.0}), "unknown-unit", "unit 99 does not exist"),
        (lambda: neuron.classify("a", "topic"), "unknown-head", "the model has no head 'topic'; its heads: length"),
        (lambda: neuron.classify("a", "../x"), "unknown-head", "the model has no head '../x'"),
    ):
        with pytest.raises(RequestFailedError, match=message) as failed:
            call()
        assert failed.value.code == code
    assert neuron.classify("a")


def test_heads_that_users_fitted(tiny_volume: Path, tmp_path: Path) -> None:
    manifest = checkpoint.read_manifest(volumes.latest(tiny_volume))
    labels = np.arange(8) % 2
    features = np.zeros((8, TINY.units), dtype=np.float32)
    features[:, 7] = labels
    fitted = fit_unit_cv(features, labels)
    stored = stored_head("mine", manifest, fitted, ["no", "yes"], "cell", 8, 0.0, made_by="")
    with Neuron.load(tiny_volume, heads=tmp_path) as neuron:
        with pytest.raises(RequestFailedError, match="none of that name was fitted or published"):
            neuron.classify("a", "mine")
        head_store.create(tmp_path, stored)
        assert neuron.classify("a", "mine")[0].label in ("no", "yes")
        assert neuron.trace("a", head="mine").labels == ["no", "yes"]
        (tmp_path / "mine.json").write_text("{}")
        with pytest.raises(RequestFailedError, match=r"mine\.json is not a valid head"):
            neuron.classify("a", "mine")


def test_the_heads_beside_a_checkpoint_that_is_named_from_its_volume(
    tiny_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = volumes.latest(tiny_volume)
    assert heads_directory(step) == heads_directory(tiny_volume) == tiny_volume / "heads"
    monkeypatch.chdir(step.parent)
    assert heads_directory(Path(step.name)) == tiny_volume / "heads"


def test_heads_are_where_a_worker_looks(tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = shutil.copytree(volumes.latest(tiny_volume), tmp_path / "alone")
    assert heads_directory(alone) == alone / "heads"
    monkeypatch.setenv("NEURON_WORKER_HEADS_DIR", str(tmp_path / "elsewhere"))
    assert {heads_directory(place) for place in (alone, tiny_volume, volumes.SHIPPED)} == {tmp_path / "elsewhere"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "nowhere"}, "nowhere holds no published model"),
        ({"device": "tpu"}, "device is 'tpu', not one of auto, cpu, cuda"),
        ({"dtype": "int8"}, "dtype is 'int8', not one of auto, float32, bfloat16"),
        ({"rows": 0}, "rows is 0, not a whole number of 1 or more"),
    ],
)
def test_what_cannot_be_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        Neuron.load(**options)


def test_a_checkpoint_by_itself_and_its_description(tiny_volume: Path) -> None:
    with Neuron.load(volumes.latest(tiny_volume), device="cpu", dtype="float32") as neuron:
        assert repr(neuron) == "<Neuron tiny step 1: mlstm, 48 units, float32 on cpu>"
        assert neuron.info.heads == {"sentiment": ["negative", "positive"], "length": ["short", "medium", "long"]}
        assert neuron.info.sentiment_unit == SENTIMENT_UNIT


def test_threads_share_it(neuron: Neuron) -> None:
    def write(seed: int) -> str:
        return neuron.generate("It", seed=seed, length=50, stop=[])[0].text

    alone = [write(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(write, range(12))) == alone


def test_closed_while_in_use(tiny_volume: Path) -> None:
    neuron = Neuron.load(tiny_volume)
    stream = neuron.stream("It", **ENDLESS)
    next(stream)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(neuron.generate, "It", **ENDLESS) for _ in range(4)]
        wait_until(lambda: engine_of(neuron).rows_active == 5, what="all of them at work")
        neuron.close()
        for call in waiting:
            assert isinstance(call.exception(60), RequestFailedError)
    with pytest.raises(RequestFailedError, match="shut down"):
        list(stream)
    neuron.close()
    with pytest.raises(NeuronError, match="the Neuron is closed"):
        neuron.classify("a")
    with pytest.raises(NeuronError, match="the Neuron is closed"):
        neuron.stream("a")  # at once, not when it is first iterated


def test_closing_releases_the_model(tiny_volume: Path) -> None:
    neuron = Neuron.load(tiny_volume, rows=1)
    stream = neuron.stream("It", **ENDLESS)
    next(stream)
    served = neuron._runner._served
    assert served is not None
    model = weakref.ref(served.backend)
    del served
    with ThreadPoolExecutor(1) as threads:  # behind the stream, whose row has the only place
        waiting = threads.submit(neuron.classify, "a")
        wait_until(lambda: engine_of(neuron).rows_waiting == 1, what="a row that waits")
        neuron.close()
        assert isinstance(waiting.exception(60), RequestFailedError)
    del stream, waiting
    gc.collect()
    assert model() is None
    assert neuron.info.units == TINY.units


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_fails_what_runs(tiny_volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault outside the backend")

    with Neuron.load(tiny_volume) as neuron:
        monkeypatch.setattr(Observer, "block", fail)
        with pytest.raises(RequestFailedError, match="thread has died"):
            neuron.classify("a")
        with pytest.raises(RequestFailedError, match="thread has died"):
            list(neuron.stream("It"))


def test_one_that_is_dropped_ends_its_engine(tiny_volume: Path) -> None:
    neuron = Neuron.load(tiny_volume)
    engine = engine_of(neuron)
    dropped = weakref.ref(neuron)
    del neuron
    gc.collect()
    assert dropped() is None
    wait_until(lambda: not engine.alive, what="the engine's end")


def test_a_program_may_end_without_closing_it(tiny_volume: Path) -> None:
    """While it computes, too."""
    script = f"""
        from sentiment_neuron import Neuron
        neuron = Neuron.load({str(tiny_volume)!r})
        stream = neuron.stream("It", length=10_000_000, stop=[])
        next(stream)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")

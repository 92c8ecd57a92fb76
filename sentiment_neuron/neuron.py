"""`Neuron`: a model in this process that classifies, featurizes, traces and writes text, on the engine of the service.

Torch is loaded by `Neuron.load`, not with this module.
"""

import base64
import threading
import weakref
from collections.abc import Generator, Iterable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from contract.jobs import ModelInfo, Pooling
from sentiment_neuron.errors import LoadError
from sentiment_neuron.requests import (
    GenerateOptions,
    LocalJob,
    StreamOptions,
    classify_job,
    featurize_job,
    generate_job,
    trace_job,
)
from sentiment_neuron.results import Classification, Sample, Trace

if TYPE_CHECKING:
    from sentiment_neuron.runner import Runner

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]

# Texts side by side: the batch that packed weights are tuned for (engine/folded.py).
_ROWS = 64


class Neuron:
    """A loaded model. Any thread may call it; calls run side by side.

    Close it, or use it as a context, to give its memory back. Every method checks its arguments as the service does: it
    raises InvalidRequestError for what is not valid, RequestFailedError for what this model cannot do, and NeuronError
    after `close`. All of these are NeuronError.
    """

    def __init__(self, runner: "Runner") -> None:
        """Use `Neuron.load`."""
        self._runner = runner
        # One that is dropped without `close`, as when a cell of a notebook is run again, must not keep its engine.
        self._dropped = weakref.finalize(self, _end, runner)
        self._dropped.atexit = False

    @classmethod
    def load(
        cls,
        checkpoint: str | PathLike[str] | None = None,
        *,
        device: Device = "auto",
        dtype: Dtype = "auto",
        rows: int = _ROWS,
        heads: str | PathLike[str] | None = None,
    ) -> Self:
        """Read a checkpoint, verify it and start an engine. Raises LoadError.

        checkpoint: a checkpoint's directory or a volume, whose `LATEST` is taken; None is the shipped model. device:
        "auto" takes CUDA where it is. dtype: of the products; "auto" takes bfloat16 where the device multiplies it
        natively. rows: texts side by side in a step. heads: the directory of heads that users fitted; None is where
        `neuron head fit` and a worker of the same checkpoints keep them.
        """
        for name, value, known in (("device", device, Device), ("dtype", dtype, Dtype)):
            if value not in get_args(known):
                raise LoadError(f"{name} is {value!r}, not one of {', '.join(get_args(known))}")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            raise LoadError(f"rows is {rows!r}, not a whole number of 1 or more")
        try:
            from sentiment_neuron.runner import load  # noqa: PLC0415 - torch takes seconds to load
        except ModuleNotFoundError as error:
            raise LoadError(f"a model needs {error.name}: pip install 'sentiment-neuron[engine]'") from error
        try:
            place, heads = (None if path is None else Path(path) for path in (checkpoint, heads))
        except TypeError as error:
            raise LoadError(f"checkpoint and heads are paths: {error}") from error
        return cls(load(place, device, dtype, rows, heads))

    @property
    def info(self) -> ModelInfo:
        """Name, step, units, sentiment unit, heads with their labels, device and dtype of the model."""
        return self._runner.info

    def classify(self, texts: str | Iterable[str], head: str | None = None) -> list[Classification]:
        """A result for every text, in order. head: the model's own or a fitted one; None is `sentiment`."""
        return [Classification(**result) for result in self.run(classify_job(texts, head))["results"]]

    def featurize(self, texts: str | Iterable[str], pooling: Pooling = "cell") -> NDArray[np.float32]:
        """The feature vector of every text, (texts, units).

        pooling: the final "cell", its "tanh", or the "mean" of the hidden state over the text.
        """
        answer = self.run(featurize_job(texts, pooling))
        features = np.frombuffer(base64.b64decode(answer["features"]), dtype="<f4").astype(np.float32)
        return features.reshape(-1, answer["units"])

    def trace(self, text: str, units: Iterable[int] | None = None, head: str | None = None) -> Trace:
        """The value of units after every byte of a text. units: the sentiment unit if None.

        head: the name of one whose opinion of the text up to every byte is wanted as well.
        """
        return Trace.of(text, self.run(trace_job(text, units, head)))

    def generate(self, prompt: str = "", **options: Unpack[GenerateOptions]) -> list[Sample]:
        """Continue `prompt`: `n` samples, the best first.

        Options, with the defaults and limits of `POST /generate`: sentiment=None, from -1 to 1; clamp={}, raw values by
        unit; length=200 bytes at most; temperature=0.7; top_k=256; top_p=1.0; seed=None draws one; stop=["\\n"] ends a
        sample before any of these; n=1 samples to return; best_of=None, samples to draw, n or more;
        rank_by="likelihood" or "sentiment"; log_probabilities=False.
        """
        answer = self.run(generate_job(prompt, options))
        return [Sample(**result, seed=answer["seed"]) for result in answer["results"]]

    def stream(self, prompt: str = "", **options: Unpack[StreamOptions]) -> Generator[str, None, None]:
        """Continue `prompt` by one sample; yield its text as it comes, in whole characters.

        Options: as of `generate`, without n, best_of, rank_by and log_probabilities. Closing the generator, or dropping
        it, ends the computation. As with any generator, one thread at a time may use it.
        """
        self._runner.check_open()
        return self._streamed(generate_job(prompt, options, stream=True))

    def run(self, job: LocalJob) -> dict[str, Any]:
        """The result of a job (requests.py) as the JSON that the service answers."""
        following = self._runner.follow(job)
        try:
            while True:
                next(following)
        except StopIteration as ended:
            result: dict[str, Any] = ended.value
            return result

    def _streamed(self, job: LocalJob) -> Generator[str, None, None]:
        yield from self._runner.follow(job)

    def close(self) -> None:
        """End the engine. What other threads run on it fails with RequestFailedError."""
        self._dropped.detach()
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self.info
        return f"<Neuron {info.name} step {info.step}: {info.cell}, {info.units} units, {info.dtype} on {info.device}>"


def _end(runner: "Runner") -> None:
    """On a thread of its own: the garbage collector may run on the engine's thread, which cannot wait for itself."""
    threading.Thread(target=runner.close, daemon=True).start()

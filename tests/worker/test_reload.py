"""A newly published model is served within a few looks at LATEST: no request fails, no answer mixes two models."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from model.checkpoints import checkpoint, volumes
from model.checkpoints.durable import replace_file
from tests.api.test_generate import events
from tests.conftest import Stack, publish_tiny, run_stack, wait_until

POLL_S = "0.1"
REFUSED = '{outcome="refused"}'


@dataclass
class Serving:
    volume: Path
    stack: Stack
    harm: Path  # what it says befalls the worker: see tests/worker/sabotaged.py

    @property
    def step(self) -> int:
        """That LATEST names."""
        return checkpoint.read_manifest(volumes.latest(self.volume)).step

    def publish(self) -> int:
        """A model unlike those before."""
        step = self.step + 1
        publish_tiny(self.volume, step, seed=step)
        return step

    def serves(self, step: int) -> bool:
        return self.stack.worker_metric("neuron_model_info", f'{{name="tiny",step="{step}"}}') == 1

    def wait_served(self, step: int) -> None:
        wait_until(lambda: self.serves(step), what=f"step {step}")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("reload")
    volume = directory / "volume"
    publish_tiny(volume, step=1)
    harm = directory / "harm"
    settings = {"NEURON_CHECKPOINT_DIR": str(volume), "NEURON_WORKER_POLL_S": POLL_S, "NEURON_API_MAX_LENGTH": "50000"}
    with run_stack(directory, worker=False, SABOTAGE_FILE=str(harm), **settings) as stack:
        stack.spawn("worker", "tests.worker.sabotaged")
        stack.wait_ready()
        yield Serving(volume, stack, harm)


def test_ten_models_are_published_under_load(serving: Serving) -> None:
    first = serving.step
    published, served = [first], [first]  # the last of each is what holds now
    enough = threading.Event()
    texts: dict[int, set[str]] = defaultdict(set)  # step -> what its model writes with one seed

    def visit(number: int) -> int:
        """One request after another until it is enough. Returns their count."""
        count, last = 0, first
        with serving.stack.client() as client:
            while not enough.is_set():
                at_least = served[-1]
                if (count + number) % 2:
                    answer = client.post("/classify", json={"texts": ["Good.", "A longer text, and not so good."]})
                else:
                    answer = client.post("/generate", json={"prompt": "The", "length": 50, "seed": 1, "stop": []})
                assert answer.status_code == 200, answer.text
                step = answer.json()["model"]["step"]
                assert max(at_least, last) <= step <= published[-1]
                if "text" in answer.json()["results"][0]:
                    texts[step].add(answer.json()["results"][0]["text"])
                count, last = count + 1, step
        return count

    with ThreadPoolExecutor(4) as pool:
        visitors = [pool.submit(visit, number) for number in range(4)]
        try:
            for number in range(10):
                published.append(serving.step + 1)
                assert serving.publish() == published[-1]
                if number not in (3, 4, 7):  # then the next follows at once, and this one may never be served
                    serving.wait_served(published[-1])
                    served.append(published[-1])
                    wait_until(lambda: texts[published[-1]] or any(v.done() for v in visitors), what="an answer by it")
        finally:
            enough.set()
        counts = [visitor.result() for visitor in visitors]
    assert min(counts) >= 10
    assert set(served) <= texts.keys() | {first}
    assert all(len(written) == 1 for written in texts.values() if written), "an answer mixed two models"
    assert len(set().union(*texts.values())) == len([written for written in texts.values() if written])
    assert serving.stack.worker_metric("neuron_reloads_total", REFUSED) == 0


@pytest.mark.slow
def test_a_stream_ends_on_the_model_that_it_began_with(serving: Serving) -> None:
    old = serving.step
    body = {"prompt": "On and on", "length": 4000, "seed": 5, "stop": [], "stream": True}
    with serving.stack.client() as client:
        expected = client.post("/generate", json=body | {"stream": False}).json()
        with client.stream("POST", "/generate", json=body) as response:
            stream = events(response.iter_lines())
            heard = [next(stream)]
            new = serving.publish()
            serving.wait_served(new)
            beside = httpx.post(serving.stack.url + "/generate", json={"prompt": "On", "length": 20, "seed": 5}).json()
            assert serving.stack.worker_metric("neuron_rows_active") == 1, "the stream ended before the swap"
            heard += list(stream)
        after = client.post("/generate", json=body | {"stream": False, "length": 200}).json()
    assert expected["model"]["step"] == old
    assert heard[-1][1:] == ("done", expected)
    assert "".join(str(data["text"]) for _, event, data in heard if event == "token") == expected["results"][0]["text"]
    assert beside["model"]["step"] == after["model"]["step"] == new
    assert not expected["results"][0]["text"].startswith(after["results"][0]["text"])


def test_a_bad_checkpoint_is_refused_counted_and_logged_and_the_old_one_serves_on(serving: Serving) -> None:
    old = serving.step
    before = serving.stack.worker_metric("neuron_reloads_total", REFUSED)
    weights = publish_tiny(serving.volume.parent / "damaged", step=old + 1) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    weights.parent.rename(serving.volume / "tiny" / f"step-{old + 1}")
    replace_file(serving.volume / "LATEST", f"tiny/step-{old + 1}\n")
    wait_until(lambda: serving.stack.worker_metric("neuron_reloads_total", REFUSED) == before + 1, what="the refusal")
    with serving.stack.client() as client:
        assert client.post("/classify", json={"text": "Good."}).json()["model"]["step"] == old
    assert "is damaged: its SHA-256" in serving.stack.log.read_text()
    serving.wait_served(serving.publish())
    assert serving.stack.worker_metric("neuron_reloads_total", REFUSED) == before + 1  # refused once, not at every look


def test_a_model_that_does_not_fit_is_refused_and_counted_and_is_served_once_it_fits(serving: Serving) -> None:
    old = serving.step
    before = serving.stack.worker_metric("neuron_reloads_total", REFUSED)
    serving.harm.write_text("oom 0")
    new = serving.publish()
    wait_until(lambda: serving.stack.worker_metric("neuron_reloads_total", REFUSED) > before, what="the refusal")
    assert serving.serves(old)
    serving.harm.unlink()
    serving.wait_served(new)
    assert serving.stack.worker_metric("neuron_watcher_errors_total", '{watcher="watch_latest"}') == 0


def test_going_back_is_a_reload_like_any_other(serving: Serving) -> None:
    step = serving.step
    new = serving.publish()
    serving.wait_served(new)
    published = checkpoint.read(serving.volume / "tiny" / f"step-{step}")
    volumes.publish(serving.volume, published.model, published.manifest, torch.float32, rollback=True)
    serving.wait_served(step)


def test_files_that_come_after_latest_are_served_when_they_are_there(serving: Serving) -> None:
    """As where a volume is copied or cached: LATEST names what cannot be read yet."""
    old = serving.step
    step = 1000
    refused = serving.stack.worker_metric("neuron_reloads_total", REFUSED)
    elsewhere = publish_tiny(serving.volume.parent / "elsewhere", step, seed=step)
    replace_file(serving.volume / "LATEST", f"tiny/step-{step}\n")
    wait_until(lambda: serving.stack.worker_metric("neuron_reloads_total", REFUSED) > refused, what="a failure")
    assert serving.serves(old)
    elsewhere.rename(serving.volume / "tiny" / f"step-{step}")
    serving.wait_served(step)


def test_a_volume_that_is_away_for_a_while_stops_nothing(serving: Serving) -> None:
    step = serving.step
    before = serving.stack.worker_metric("neuron_reloads_total", REFUSED)
    away = serving.volume.rename(serving.volume.with_name("away"))
    wait_until(lambda: serving.stack.worker_metric("neuron_reloads_total", REFUSED) > before, what="a failed look")
    with serving.stack.client() as client:
        assert client.post("/classify", json={"text": "Good."}).json()["model"]["step"] == step
    away.rename(serving.volume)
    serving.wait_served(serving.publish())

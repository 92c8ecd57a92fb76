"""Tiny training runs: their corpus, their options, all that they depend on, and processes that train."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from model.checkpoints.volumes import SHIPPED
from trainer.corpus.build import build_corpus
from trainer.corpus.corpus import MANIFEST, CorpusManifest, ShardEntry
from trainer.corpus.labels import Labelling
from trainer.run.options import Options
from trainer.run.train import Run

ROOT = SHIPPED.parents[1]
LANES, WINDOW = 2, 16
STEP_BYTES = LANES * WINDOW


def write_shards(directory: Path, shards: list[bytes]) -> Path:
    """A corpus of just these shards, the last two held out."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, data in enumerate(shards):
        name = f"shard-{number:05d}.bin"
        (directory / name).write_bytes(data)
        entries.append(ShardEntry(name, data.count(b"\n"), len(data), hashlib.sha256(data).hexdigest()))
    manifest = CorpusManifest(0, sum(entry.reviews for entry in entries), 0, 0, 0, entries, [])
    (directory / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return directory


def write_labelled_corpus(directory: Path, shards: int = 8) -> Path:
    """Reviews that say bad or good, by turns, of shards of about 330 bytes; every fifth has no label."""
    sources = {"bad": "dull and slow and flat", "good": "fine and fast and neat"}
    numbers = range(8 * shards)
    rows = [
        (f"{n} is {sources[label]}", "" if n % 5 == 4 else label) for n in numbers for label in [("bad", "good")[n % 2]]
    ]
    source = directory.parent / f"{directory.name}.csv"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    build_corpus([source], directory, shards, text_field="text", labelling=Labelling("label"))
    return directory


def write_corpus(directory: Path, shards: int = 8) -> Path:
    """Shards of about 330 bytes, so that one of two lanes changes its shard every 20 steps."""
    reviews = [f"\n {number} is good and good and good and good".encode() for number in range(8 * shards)]
    return write_shards(directory, [b"".join(reviews[8 * shard : 8 * shard + 8]) for shard in range(shards)])


def options(corpus: Path, **changes: object) -> Options:
    tiny = Options(
        corpus=str(corpus),
        units=16,
        embedding_size=8,
        embedding_std=0.5,
        lanes=LANES,
        window=WINDOW,
        total_bytes=40 * STEP_BYTES,
        learning_rate=0.01,
        warmup_steps=8,
        dtype="float32",
        fuse=False,
        device="cpu",
        snapshot_every_s=1e9,
        validate_every_bytes=10**9,
        validation_bytes=256,
    )
    return replace(tiny, **changes)  # type: ignore[arg-type]


def ignore(_: dict[str, Any]) -> None:
    pass


def everything(run: Run) -> dict[str, torch.Tensor]:
    """All tensors that the rest of a run depends on."""
    parameters = {name.removeprefix("model."): value for name, value in run.objective.named_parameters()}
    found = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    found |= {"state.cell": run.state.cell.clone(), "state.hidden": run.state.hidden.clone()}
    for name, parameter in parameters.items():
        for optimizer in run.optimizers:
            for moment, value in optimizer.state.get(parameter, {}).items():
                found[f"{moment} of {name}"] = value.clone()
    return found


def assert_identical(one: Run, other: Run) -> None:
    tensors, others = everything(one), everything(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    for field in ("step", "bytes_seen", "skipped_steps"):
        assert getattr(one.progress, field) == getattr(other.progress, field), field
    assert one.schedule() == other.schedule()
    assert one.lanes.cursors == other.lanes.cursors


def arguments(options_: Options) -> list[str]:
    """The options as the command line gives them."""
    default, found = Options(corpus=options_.corpus), ["--corpus", options_.corpus]
    for name, value in asdict(options_).items():
        flag = "--" + name.removeprefix("start_").replace("_", "-")
        if name == "fuse":
            found += [] if value else ["--no-fuse"]
        elif name != "corpus" and value != getattr(default, name):
            found += [flag, str(value)]
    return found


def environment(**more: str) -> dict[str, str]:
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return alone | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def torchrun(processes: int, *command: str, restarts: int = 0, log: Path) -> "subprocess.Popen[bytes]":
    """`command` on `processes` gloo processes of this machine; what they print goes to `log`."""
    launcher = [str(Path(sys.executable).parent / "torchrun"), "--standalone"]
    launcher += [f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    with log.open("ab") as out:
        return subprocess.Popen([*launcher, *command], stdout=out, stderr=out, env=environment())


def start(directory: Path, chosen: Options, *more: str) -> "subprocess.Popen[bytes]":
    """A training process; what it prints goes to `output.txt` beside the run."""
    command = [sys.executable, "-m", "trainer", str(directory), *arguments(chosen), *more]
    with (directory.parent / "output.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment())


def logged(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]

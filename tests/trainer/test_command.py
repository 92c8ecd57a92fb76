"""`neuron train` and `python -m trainer`: one command, its options, and what it says when they do not fit."""

import contextlib
import dataclasses
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from model.checkpoints import volumes
from tests.support.runs import STEP_BYTES, arguments, environment, logged, options, write_corpus
from trainer.command import train
from trainer.run.curve import CURVE, updates
from trainer.run.options import Options
from trainer.run.snapshot import snapshots


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "built")


def neuron_train(*words: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, words)])


def test_every_option_of_a_run_can_be_given() -> None:
    fields = {field.name for field in dataclasses.fields(Options)} - {"corpus_sha256", "start_bytes"}
    assert fields <= {parameter.name for parameter in train.params}


def test_the_same_line_starts_and_goes_on(corpus: Path, tmp_path: Path) -> None:
    line = [tmp_path / "run", "--resume", *arguments(options(corpus, total_bytes=4 * STEP_BYTES))]
    for _ in range(2):
        done = neuron_train(*line)
        assert done.exit_code == 0, done.output
    assert [path.name for path in snapshots(tmp_path / "run" / "snapshots")] == ["step-4"]
    longer = neuron_train(tmp_path / "run", "--resume", "--total-bytes", 6 * STEP_BYTES)
    assert longer.exit_code == 0, longer.output
    assert json.loads(longer.stdout.splitlines()[-1])["step"] == 6
    assert "validation_bits_per_byte" in json.loads(longer.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_terminal_shows_how_far_it_is(corpus: Path, tmp_path: Path) -> None:
    chosen = options(corpus, total_bytes=40 * STEP_BYTES, validate_every_bytes=10 * STEP_BYTES)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trainer", str(tmp_path / "run"), *arguments(chosen)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment(COLUMNS="150")) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends on Linux
            while part := os.read(ours, 65536):
                shown += part
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(180) == 0, shown.decode()
    os.close(ours)
    assert b"1,280 bytes" in shown
    assert b"held-out" in shown
    assert b"bits per byte" in shown


def test_what_does_not_fit_is_named(corpus: Path, tmp_path: Path) -> None:
    line = arguments(options(corpus, total_bytes=2 * STEP_BYTES))
    assert neuron_train(tmp_path / "run", *line).exit_code == 0
    for words, message in (
        ([tmp_path / "run", *line], "holds a run already: continue with --resume"),
        ([tmp_path / "run", "--resume", "--units", 8], "--units is 8 but the run was made with 16"),
        ([tmp_path / "none", "--resume"], "name a corpus with --corpus"),
        ([tmp_path / "new", *line, "--lanes", -1], "--lanes is -1, it must be at least 0"),
        ([tmp_path / "new", *line, "--total-seconds", 9], "--total-bytes and --total-seconds exclude each other"),
        ([tmp_path / "new", "--corpus", corpus, "--total-seconds", -1], "--total-seconds is -1.0, it must be at least"),
        ([tmp_path / "run"], "holds a run already: continue it with --resume"),
        ([tmp_path / "new", *line, "--lanes", 7], "7 lanes need at least as many training shards"),
        ([tmp_path / "new", *line, "--publish-every-steps", 7], "name a volume there"),
        ([tmp_path / "new", *line, "--from", tmp_path], "--from: "),
        (
            [tmp_path / "new", *line, "--publish-to", tmp_path / "volume", "--publish-eval", tmp_path],
            "holds no sst_binary_train.csv or",
        ),
        ([tmp_path / "new", "--corpus", corpus, "--device", "gpu"], "--device gpu cannot be used: Expected one of"),
    ):
        done = neuron_train(*words)
        assert done.exit_code != 0
        assert message in done.output
    assert not (tmp_path / "new").exists()


def test_defaults_are_shown() -> None:
    shown = " ".join(neuron_train("--help").output.split())
    for default in ("4,096", "0.0005", "128, the paper's; 512 or 256 on a GPU", "200 times in the run", "mlstm"):
        assert f"[default: ({default})]" in shown, default


def test_lines_in_a_pipe_are_short_and_the_log_is_exact(corpus: Path, tmp_path: Path) -> None:
    done = neuron_train(tmp_path / "run", *arguments(options(corpus, total_bytes=4 * STEP_BYTES)))
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record.keys() for record in printed] == [record.keys() for record in logged(tmp_path / "run")]
    for shown, exact in zip(printed, logged(tmp_path / "run"), strict=True):
        assert shown == pytest.approx(exact, rel=1e-5)
        assert all(len(str(value)) < 12 for value in shown.values())
    assert any(len(str(value)) > 12 for value in logged(tmp_path / "run")[-1].values())


def test_the_end_says_what_came_of_it_and_what_is_next(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = neuron_train(run, *arguments(options(corpus, total_bytes=4 * STEP_BYTES)))
    assert "128 bytes in " in done.stderr
    assert "held out: " in done.stderr
    assert f"curve: {run / CURVE}" in done.stderr
    assert (run / CURVE).read_bytes().startswith(b"\x89PNG")
    assert f"publish: neuron publish {run} --to VOLUME" in done.stderr
    assert "--resume" not in done.stderr


def test_the_curve_goes_back_with_a_run_that_crashed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [json.dumps({"bytes_seen": read, "bits_per_byte": bits}) for read, bits in ((1, 8), (4, 7), (6, 5), (5, 6))]
    log.write_text("\n".join([*lines, '{"warning": "slow"}', '{"bytes_seen": 7, "bits']))
    assert [record["bits_per_byte"] for record in updates(log)] == [8, 7, 6]


def test_what_is_left_out_of_the_labelled_texts_is_told_at_the_start(corpus: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("train", "valid"):
        (texts / f"{name}.csv").write_text("label,text\n" + "1,good\n0,bad\n1,\n" * 20)
    publish = ["--publish-to", tmp_path / "volume", "--publish-eval", texts]
    done = neuron_train(tmp_path / "run", *arguments(options(corpus, total_bytes=4 * STEP_BYTES)), *publish)
    assert done.exit_code == 0, done.output
    assert f"Warning: {texts / 'train.csv'}, line 4: the text is empty: left out" in done.stderr
    assert f"Warning: 20 more records of {texts} are left out" in done.stderr
    assert volumes.latest(tmp_path / "volume")


def test_lanes_are_chosen_and_named_where_none_are_given(tmp_path: Path) -> None:
    many = write_corpus(tmp_path / "corpus", shards=140)
    chosen = options(many, window=1, validation_bytes=10_000, total_bytes=4 * 128, lanes=0)
    done = neuron_train(tmp_path / "run", *arguments(chosen))
    assert done.exit_code == 0, done.output
    assert "128 lanes: --lanes chooses another number" in done.stderr
    assert Options.read(tmp_path / "run").lanes == 128

"""`neuron evaluate`: every command leaves its report, and what a user can do wrong ends in a message."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from evaluation.features import Reader
from evaluation.generation import sample_requests
from evaluation.rows import run_rows
from model.checkpoints import checkpoint, volumes

Neuron = Callable[..., Result]

GOOD, BAD = ["great", "lovely", "superb"], ["awful", "boring", "broken"]


def write_set(path: Path, rows: int, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    lines = ["label,sentence"]
    for label in draw.permutation(np.arange(rows) % 2):
        lines.append(f"{label},thing {draw.integers(1000)} is {draw.choice(GOOD if label else BAD)}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    for seed, (name, rows) in enumerate([("train", 60), ("valid", 30), ("test", 30)]):
        write_set(directory / f"{name}.csv", rows, seed)
    (directory / "pairs.csv").write_text(
        "a,b,same,score\n" + "".join(f"one {n},two {n % 7},{n % 2},{1 + n % 5}\n" for n in range(30))
    )
    return directory


@pytest.fixture
def evaluate(neuron: Neuron, volume: Path, tmp_path: Path) -> Callable[..., Result]:
    def call(*arguments: object, model: Path = volume) -> Result:
        places = ("--out", tmp_path / "out", "--cache", tmp_path / "cache", "--checkpoint", model)
        return neuron("evaluate", *arguments, *places)

    return call


def parts(data: Path) -> list[object]:
    return ["--train", data / "train.csv", "--valid", data / "valid.csv", "--test", data / "test.csv"]


def build_corpus(neuron: Neuron, place: Path) -> Path:
    """Of 400 reviews with 1 to 5 stars."""
    rows = [f"{number % 5 + 1},review {number} is {GOOD[0] if number % 5 > 2 else BAD[0]}" for number in range(400)]
    (place / "stars.csv").write_text("stars,text\n" + "\n".join(rows) + "\n")
    built = ["--text-field", "text", "--label-field", "stars", "--positive", "4,5", "--negative", "1,2"]
    neuron("corpus", "build", place / "stars.csv", *built, "--out", place / "corpus", "--shards", 4)
    return place / "corpus"


def test_answers_on_sets_and_on_what_a_corpus_holds_out(
    neuron: Neuron, evaluate: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    corpus = build_corpus(neuron, tmp_path)
    result = evaluate("answers", "--set", f"mine={data / 'test.csv'}", "--corpus", corpus)
    assert result.exit_code == 0, result.output
    mine, held_out = json.loads((tmp_path / "out" / "report.json").read_text())["sets"]
    assert (mine["name"], mine["texts"], held_out["name"]) == ("mine", 30, "held-out reviews")
    assert held_out["accuracy_tfidf"] == 1.0
    assert [row["source"] for row in held_out["by_source"]] == ["stars.csv"]
    assert "| mine | 30 |" in result.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give --set NAME=FILE, --corpus, or both"),
        (["--set", "file.csv"], 2, "give --set NAME=FILE"),
        (["--set", "a=nowhere.csv"], 1, "nowhere.csv"),
        (["--corpus", "."], 1, "is not a corpus"),
    ],
)
def test_answers_to_nothing(evaluate: Callable[..., Result], options: list[str], code: int, message: str) -> None:
    result = evaluate("answers", *options)
    assert result.exit_code == code
    assert message in result.stderr


def pair_files(data: Path) -> list[object]:
    file = data / "pairs.csv"
    return ["--train", file, "--test", file, "--first", "a", "--second", "b", "--folds", 1]


@pytest.mark.parametrize(
    ("name", "arguments", "keys", "figures"),
    [
        ("sst", lambda data: ["--data", data], {"accuracy_all", "accuracy_unit_no_labels", "C"}, 1),
        ("imdb", lambda data: ["--data", data], {"accuracy_tfidf", "nonzero"}, 1),
        ("classify", lambda data: [*parts(data), "--text-field", "sentence"], {"accuracy_shipped_head"}, 1),
        ("curve", lambda data: [*parts(data), "--draws", 2], {"curve"}, 1),
        ("units", parts, {"weights", "top"}, 2),
        ("lengths", parts, {"lengths", "by_length"}, 1),
        ("histogram", lambda data: [data / "test.csv"], {"classes", "area_under_roc"}, 1),
        ("shifts", lambda data: [data / "test.csv", "--limit", 5], {"by_byte", "by_share"}, 2),
        ("heatmap", lambda _: ["It is <great>.", "Dreadful", "--unit", 5, "--unit", 3], {"texts"}, 2),
        ("pairs", lambda data: [*pair_files(data), "--label-field", "same"], {"accuracy", "f1"}, 1),
        ("pairs", lambda data: [*pair_files(data), "--score-field", "score"], {"r", "rho", "mse"}, 1),
        (
            "generation",
            lambda data: ["--train", data / "train.csv", "--samples", 3, "--length", 8],
            {"on_asked_side", "kinds"},
            1,
        ),
    ],
)
def test_a_command_leaves_its_report(
    evaluate: Callable[..., Result],
    data: Path,
    tmp_path: Path,
    name: str,
    arguments: Callable[[Path], list[object]],
    keys: set[str],
    figures: int,
) -> None:
    given = arguments(data)
    result = evaluate(name, *given)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    values: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert keys <= set(values)
    assert (values["checkpoint"], values["units"]) == ("tiny/step-12", 32)
    for word in given:
        assert str(word) in values["command"].replace("'", "")
    pictures = list(out.glob("*.png"))
    assert len(pictures) == figures
    assert all(picture.stat().st_size > 2000 for picture in pictures)
    assert len(list(out.glob("*.html"))) == (2 if name == "heatmap" else 0)
    assert (out / "report.md").read_text().count("|") > 8
    assert str(out) in result.stdout


@dataclass
class Everything:
    """What `neuron evaluate all` made of a model; all its paths are relative to `directory`, so a copy goes on."""

    directory: Path
    result: Result
    again: Callable[..., Result]

    def copy(self, to: Path) -> Path:
        return shutil.copytree(self.directory, to, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def everything(neuron: Neuron, volume: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    def run(directory: Path, *options: object, draws: int = 2) -> Result:
        places = ("--out", "out", "--cache", "cache", "--checkpoint", "volume")
        with contextlib.chdir(directory):
            return neuron("evaluate", "all", "--data", data, "--draws", draws, "--samples", 2, *options, *places)

    directory = tmp_path_factory.mktemp("everything")
    shutil.copytree(volume, directory / "volume")
    return Everything(directory, run(directory), run)


def started(result: Result) -> list[str]:
    """The protocols that were not there yet."""
    assert result.exit_code == 0, result.stderr
    return [line.split()[3] for line in result.stdout.splitlines() if line.startswith("$ ")]


def test_all_protocols_end_in_one_table(everything: Everything) -> None:
    assert everything.result.exit_code == 0, everything.result.stderr
    out = everything.directory / "out"
    reports = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/report.json")}
    assert len(reports) == 12
    assert {name for name, report in reports.items() if report.get("pooling") == "mean"} == {"sst-mean", "imdb-mean"}
    text = (out / "results.md").read_text()
    for name, report in reports.items():
        assert f"## {name}\n" in text
        assert f"```bash\n{report['command']}\n```" in text
        for line in (out / name / "report.md").read_text().splitlines():
            if line.startswith("|"):
                assert line in text
    for picture in out.glob("*/*.png"):
        assert f"]({picture.relative_to(out)})" in text
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| "))
    ours, tfidf, paper = rows["IMDB, the one unit, fitted threshold"].split(" | ")
    assert ours == f"{100 * reports['imdb']['accuracy_unit']:.1f} %"
    assert (tfidf, paper) == (f"{100 * reports['imdb']['accuracy_tfidf']:.1f} %", "92.3 %")
    assert rows["SST, binary, all units, mean over the text"].startswith(
        f"{100 * reports['sst-mean']['accuracy_all']:.1f} %"
    )


def test_another_checkpoint_stands_beside_it(everything: Everything, tmp_path: Path) -> None:
    everything.copy(tmp_path)
    earlier = shutil.copytree(tmp_path / "out", tmp_path / "earlier")
    shutil.rmtree(earlier / "imdb")
    for path in earlier.glob("*/report.json"):
        report = json.loads(path.read_text())
        path.write_text(json.dumps(report | {"bits_per_byte": report["bits_per_byte"] + 10}))
    result = everything.again(tmp_path, "--beside", "earlier")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "out" / "results.md").read_text()
    rows = {line.strip("| ").split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in text.splitlines()}
    ours, other, _, _ = rows["held-out reviews, bits per byte"]
    assert float(other) == pytest.approx(10 + float(ours), abs=0.01)
    assert rows["SST, binary, all units"][0] == rows["SST, binary, all units"][1]
    assert rows["IMDB, all units"][1] == "-"
    assert "; beside it tiny/step-12: 32 units" in text


def test_the_page_may_lie_elsewhere_and_takes_growth_in(
    everything: Everything, neuron: Neuron, data: Path, volume: Path, tmp_path: Path
) -> None:
    out, page = everything.copy(tmp_path) / "out", tmp_path / "page.md"
    (out / "results.md").unlink()
    grown = neuron("evaluate", "growth", volume, "--data", data, "--out", out / "growth", "--cache", tmp_path / "cache")
    assert grown.exit_code == 0, grown.stderr
    result = everything.again(tmp_path, "--page", "page.md")
    assert result.exit_code == 0, result.stderr
    assert not (out / "results.md").exists()
    links = re.findall(r"\]\((.+?\.(?:png|html))\)", page.read_text())
    assert "out/growth/growth.png" in links
    assert all((tmp_path / link).exists() for link in links)


def test_what_is_there_of_all_is_not_made_again(everything: Everything, tmp_path: Path) -> None:
    """But for other options, another checkpoint, and what was left half-way."""
    assert len(started(everything.result)) == 12
    everything.copy(tmp_path)
    assert started(everything.again(tmp_path)) == []
    (tmp_path / "out" / "shifts" / "report.json").write_text("{")
    assert started(everything.again(tmp_path, draws=3)) == ["shifts", "curve"]
    manifest = volumes.resolve(tmp_path / "volume") / checkpoint.MANIFEST
    before = manifest.read_text()
    manifest.write_text(before.replace('"notes": "', '"notes": "another '))
    assert manifest.read_text() != before
    assert len(started(everything.again(tmp_path, draws=3))) == 12


def test_a_report_that_is_older_than_its_files_is_made_again(everything: Everything, tmp_path: Path) -> None:
    everything.copy(tmp_path)
    for path in (tmp_path / "out").glob("*/report.json"):
        os.utime(path, (0, 0) if path.parent.name == "units" else None)
    assert started(everything.again(tmp_path)) == ["units"]


def test_reports_of_another_checkpoint_stay_out_of_the_page(everything: Everything, tmp_path: Path) -> None:
    everything.copy(tmp_path)
    shutil.copytree(tmp_path / "out" / "units", tmp_path / "out" / "showdown")
    report = tmp_path / "out" / "showdown" / "report.json"
    assert "## showdown" in _page(everything, tmp_path)
    report.write_text(json.dumps(json.loads(report.read_text()) | {"manifest_sha256": "0" * 64}))
    assert "## showdown" not in _page(everything, tmp_path)
    (tmp_path / "none").mkdir()
    assert "--beside none holds no reports" in everything.again(tmp_path, "--beside", "none").stderr


def _page(everything: Everything, place: Path) -> str:
    result = everything.again(place, "--page", "new/page.md")
    assert result.exit_code == 0, result.stderr
    return (place / "new" / "page.md").read_text()


def test_the_growth_of_a_volumes_checkpoints(neuron: Neuron, volume: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = neuron("evaluate", "growth", volume, "--data", data, "--out", out, "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.stderr
    values = json.loads((out / "report.json").read_text())
    assert [point["checkpoint"] for point in values["points"]] == ["tiny/step-12"]
    assert values["command"].startswith(f"neuron evaluate growth {volume} --data")
    again = neuron("evaluate", "growth", volume, "--data", data, "--out", out, "--earlier", out / "report.json")
    assert again.exit_code == 0, again.stderr
    assert json.loads((out / "report.json").read_text())["points"] == values["points"]
    (tmp_path / "broken.json").write_text("{")
    broken = neuron("evaluate", "growth", volume, "--data", data, "--out", out, "--earlier", tmp_path / "broken.json")
    assert broken.exit_code == 1
    assert "broken.json is not a report.json" in broken.stderr
    nothing = neuron("evaluate", "growth", data, "--data", data, "--out", out)
    assert nothing.exit_code == 1
    assert "there is no checkpoint" in nothing.stderr


def test_pages_are_those_of_trace(
    neuron: Neuron, evaluate: Callable[..., Result], volume: Path, tmp_path: Path
) -> None:
    text = "It is <great> &amp; it is næsten 🙂."
    page = tmp_path / "trace.html"
    shown = neuron("trace", "--checkpoint", volume, text, "--unit", 5, "--unit", 3, "--html", page)
    assert shown.exit_code == 0
    evaluate("heatmap", text, "--unit", 5, "--unit", 3)
    ours = (tmp_path / "out" / "text_1.html").read_text()
    assert ours.split("<section")[0] == page.read_text().split("<section")[0]
    assert ours.count("<span") == page.read_text().count("<span")


def test_it_writes_what_generate_writes(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    reported = neuron(
        "generate", "It", "--checkpoint", volume, "--sentiment", 1, "--temperature", 0, "--length", 40, "--json"
    )
    reader = Reader(volumes.resolve(volume), tmp_path)
    calibration = reader.calibration
    requests = sample_requests("It", {calibration.unit: calibration.value(1.0)}, 3, 40, 0.0, 0)
    (ours,) = {row.text for row in run_rows(reader.model, requests)}
    assert ours == json.loads(reported.stdout)["results"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda data: ["classify", *parts(data), "--text-field", "body"],
            "the text field 'body' is not there (--text-field)",
        ),
        (lambda data: ["imdb", "--data", data.parent], "holds no imdb_train.csv or train.csv"),
        (lambda data: ["histogram", data / "test.csv", "--unit", 32], "unit 32 does not exist"),
        (lambda _: ["heatmap", "a", "--unit", 32], "unit 32 does not exist"),
        (lambda data: ["all", "--data", data.parent], "holds no imdb_train.csv or train.csv"),
        (
            lambda data: ["answers", "--set", f"a={data / 'test.csv'}", "--pooling", "mean"],
            "No such option '--pooling'",
        ),
        (lambda data: ["pairs", *pair_files(data)], "give --label-field for paraphrase or --score-field"),
        (lambda data: ["pairs", *pair_files(data), "--label-field", "score"], "paraphrase has two labels"),
    ],
)
def test_refusals(
    evaluate: Callable[..., Result], data: Path, arguments: Callable[[Path], list[object]], message: str
) -> None:
    result = evaluate(*arguments(data))
    assert result.exit_code != 0
    assert message in result.stderr


def test_without_a_sentiment_unit(evaluate: Callable[..., Result], data: Path, bare: Path, tmp_path: Path) -> None:
    result = evaluate("histogram", data / "test.csv", model=bare)
    assert result.exit_code == 1
    assert "bare/step-0 has no sentiment unit" in result.stderr
    assert evaluate("classify", *parts(data), model=bare).exit_code == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["accuracy_unit_no_labels"] is None


def test_the_second_run_reads_no_text(
    evaluate: Callable[..., Result], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate("sst", "--data", data).exit_code == 0
    first = (tmp_path / "out" / "report.json").read_text()
    monkeypatch.setattr("evaluation.features.read_texts", None)
    assert evaluate("sst", "--data", data).exit_code == 0
    assert (tmp_path / "out" / "report.json").read_text() == first


def test_an_unwritable_place(neuron: Neuron, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = ["--out", tmp_path / "file" / "out", "--cache", tmp_path / "cache", "--checkpoint", volume]
    result = neuron("evaluate", "heatmap", "a", *places)
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr


def test_float32_products(evaluate: Callable[..., Result], tmp_path: Path) -> None:
    assert evaluate("heatmap", "a", "--dtype", "float32").exit_code == 0
    assert str(torch.float32) in json.loads((tmp_path / "out" / "report.json").read_text())["machine"]


def test_a_showdown_on_sets_and_on_a_corpus(
    evaluate: Callable[..., Result], neuron: Neuron, data: Path, tmp_path: Path
) -> None:
    files = ("--train", data / "train.csv", "--test", data / "test.csv")
    result = evaluate(
        "showdown", *files, "--sizes", "20,60", "--finetune-epochs", 1, "--finetune-most", 20, "--no-fuse"
    )
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "out" / "report.json").read_text())["points"]
    assert {(point["contender"], point["examples"]) for point in points} >= {
        ("fine-tuned", 20), ("recurrent", 60), ("tf-idf", 60), ("features", 60), ("the unit", 60),
    }  # fmt: skip
    assert ("fine-tuned", 60) not in {(point["contender"], point["examples"]) for point in points}
    corpus = build_corpus(neuron, tmp_path)
    result = evaluate("showdown", "--corpus", corpus, "--sizes", "20", "--finetune-most", 0)
    assert result.exit_code == 0, result.output
    for wrong, told in (
        (("--sizes", "ten", *files), "--sizes is 'ten': give whole numbers of 20 or more"),
        (("--train", data / "train.csv"), "give --train and --test, or --corpus"),
        (("--corpus", corpus, "--test", data / "test.csv"), "give --train and --test, or --corpus alone"),
    ):
        assert told in evaluate("showdown", *wrong).output


def test_tricks_on_a_set(neuron: Neuron, data: Path, tmp_path: Path) -> None:
    train = data / "train.csv"
    result = neuron("evaluate", "tricks", "--train", train, "--epochs", 2, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["protocol"], report["texts"] + report["texts_held_out"]) == ("tricks", 60)
    assert (report["texts_held_out"], len(report["tried"])) == (14, 21)

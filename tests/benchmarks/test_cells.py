"""`neuron bench cells` on a tiny corpus: every cell at every rate, equal parameters, figures and a picture."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.cells import CELLS, matching_units
from cli.main import main
from model.network.language_model import Architecture, LanguageModel
from trainer.corpus.build import build_corpus


def parameters(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_units_are_chosen_for_equal_parameters() -> None:
    model = LanguageModel(Architecture("mlstm", 512))
    assert matching_units("mlstm", model) == 512
    for cell in ("lstm", "gru"):
        other = LanguageModel(Architecture(cell, matching_units(cell, model)))  # type: ignore[arg-type]
        assert parameters(other) == pytest.approx(parameters(model), rel=0.04)
        assert other.architecture.units > 512


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's compiler imports its own old parts
def test_a_comparison(tmp_path: Path) -> None:
    (tmp_path / "reviews.txt").write_text("\n".join(f"{n} is good and good and good" for n in range(400)))
    build_corpus([tmp_path / "reviews.txt"], tmp_path / "corpus", shards=8)
    sizes = ["--units", "32", "--lanes", "4", "--window", "16", "--seconds", "0.2", "--learning-rate", "0.01"]
    files = [
        "--corpus",
        str(tmp_path / "corpus"),
        "--json",
        str(tmp_path / "c.json"),
        "--plot",
        str(tmp_path / "c.png"),
    ]
    run = CliRunner().invoke(main, ["bench", "cells", *sizes, *files])
    assert run.exit_code == 0, run.output
    runs = json.loads((tmp_path / "c.json").read_text())["runs"]
    assert [(run["cell"], run["steepness"]) for run in runs] == CELLS
    for found in runs:
        assert found["bytes"] == found["curve"][-1]["bytes"] > 0
        assert 0 < found["validation_bits_per_byte"] < 9
        assert 0 < found["bits_per_byte"] < 9
        assert f"{found['bits_per_byte']:.4f} bits per byte" in run.stdout
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

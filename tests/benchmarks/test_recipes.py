"""`neuron bench recipes` on a tiny corpus: recipes read as `neuron train` reads them, ranked by held-out text."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.contest import of_the_last_tenth
from benchmarks.recipes import options
from cli.main import main
from trainer.corpus.build import build_corpus
from trainer.run.options import Options


def test_the_last_tenth_is_weighed_by_bytes() -> None:
    curve = [
        {"bytes": 900, "bits_per_byte": 5.0},
        {"bytes": 930, "bits_per_byte": 3.0},
        {"bytes": 1000, "bits_per_byte": 2.0},
    ]
    assert of_the_last_tenth(curve) == pytest.approx((30 * 3.0 + 70 * 2.0) / 100)
    assert of_the_last_tenth(curve[:1]) == 5.0


def test_a_recipe_is_what_one_says_to_neuron_train(tmp_path: Path) -> None:
    assert options("--units 64 --optimizer muon --no-fuse", Path("corpus")) == Options(
        corpus="corpus", units=64, optimizer="muon", fuse=False
    )
    assert options(f"--from {tmp_path}", Path("corpus")).start_from == str(tmp_path)
    with pytest.raises(click.NoSuchOption, match="--unit"):
        options("--unit 64", Path("corpus"))


@pytest.mark.slow
def test_a_comparison(tmp_path: Path) -> None:
    (tmp_path / "reviews.txt").write_text("\n".join(f"{n} is good and good and good" for n in range(400)))
    build_corpus([tmp_path / "reviews.txt"], tmp_path / "corpus", shards=8)
    recipes = ["--units 32 --learning-rate 0.01", "--units 48 --optimizer muon"]
    words = [word for recipe in recipes for word in ("--recipe", recipe)]
    where = ["--corpus", str(tmp_path / "corpus"), "--json", str(tmp_path / "r.json"), "--seconds", "0.2"]
    common = ["--common", "--lanes 4 --window 16 --no-fuse"]
    run = CliRunner().invoke(main, ["bench", "recipes", *where, *words, *common])
    assert run.exit_code == 0, run.output
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [found["label"] for found in runs] == recipes
    ranked = sorted(runs, key=lambda found: found["validation_bits_per_byte"])
    for found, line in zip(ranked, run.stdout.splitlines(), strict=True):
        assert 0 < found["bits_per_byte"] < 9
        assert found["bytes"] == found["curve"][-1]["bytes"] > 0
        assert line.startswith(f"{found['validation_bits_per_byte']:.4f} bits per byte held out")
        assert line.endswith(found["label"])

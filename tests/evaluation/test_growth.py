from pathlib import Path

import pytest
import torch

from evaluation import growth
from evaluation.features import EvaluationError, Reader
from model.checkpoints import volumes
from model.checkpoints.manifest import Manifest
from tests.support.carrier import UNIT, UNITS, assert_pictures, carrier, sets


def test_a_model_is_followed_by_the_bytes_it_had_read(tmp_path: Path) -> None:
    """One that has not learned the mark, and one that has; given the wrong way round."""
    young, grown = carrier(), carrier()
    with torch.no_grad():
        young.cell.gx[3 * UNITS + UNIT] = 0.0
        young.cell.b[UNIT] = -7.0
    readers = []
    for step, model, bits in ((9, grown, 1.5), (2, young, None)):
        manifest = Manifest("growing", step, model.architecture, 1000 * step, bits, {})
        readers.append(Reader(volumes.publish(tmp_path, model, manifest, torch.float32, True), tmp_path / "cache"))
    report = growth.evaluate(readers, sets())
    first, last = report.values["points"]
    assert (first["bytes_seen"], last["bytes_seen"]) == (2000, 9000)
    assert (first["bits_per_byte"], last["bits_per_byte"]) == (None, 1.5)
    assert (last["unit"], last["accuracy_unit"], last["accuracy_cell"], last["accuracy_mean"]) == (UNIT, 1.0, 1.0, 1.0)
    assert first["accuracy_unit"] < 0.8
    report.write(tmp_path / "out", {})
    assert_pictures(tmp_path / "out", ["growth"])
    assert "| 9,000 | 1.500 | 100.0 % | 100.0 % | 100.0 % | 5 |" in (tmp_path / "out" / "report.md").read_text()


def test_points_of_checkpoints_that_are_gone_are_kept(reader: Reader) -> None:
    before = growth.evaluate([reader], sets())
    gone = {**before.values["points"][0], "manifest_sha256": "gone", "bytes_seen": 1}
    whole = growth.evaluate([reader], sets(), [{"protocol": "growth", **before.values, "points": [gone]}])
    assert whole.values["points"] == [gone, before.values["points"][0]]
    for other in (
        {**before.values, "protocol": "growth", "labels": ["0", "2"]},
        {"protocol": "units", **before.values},
    ):
        with pytest.raises(EvaluationError, match="give reports of `neuron evaluate growth` on the same sets"):
            growth.evaluate([reader], sets(), [other])


def test_what_cannot_be_followed(reader: Reader) -> None:
    with pytest.raises(EvaluationError, match="there is no checkpoint"):
        growth.evaluate([], sets())
    with pytest.raises(EvaluationError, match="the one unit needs two labels"):
        growth.evaluate([reader], sets(marks="-+*"))

"""The importer of the published files, against the equations written once more in float64 NumPy."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.folded import FoldedModel
from engine.reading import read_features
from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.openai_weights import FILES, import_openai
from tests.support.examples import examples
from tests.support.hostile import damaged
from texts.preparation import prepare
from trainer.publishing.openai import GOLDEN_TOLERANCE, OPENAI

TEXTS = ["it was a nice day", "Ärgerlich &amp; bad", "", "A much longer text than the others.\nOn two lines. " * 5]


def write_files(directory: Path, units: int, embedding_size: int, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    n, e = units, embedding_size
    matrices = [(256, e), (e, 4 * n), (n, n), (n, n), (n, n), (n, n), (e, n), (n, n)]
    shapes = [*matrices, (4 * n,), (4 * n,), (4 * n,), (n,), (n,), (n, 256), (256,)]
    directory.mkdir(parents=True, exist_ok=True)
    for number, shape in enumerate(shapes):
        values = draw.normal(0.3 if len(shape) == 1 else 0.0, 0.8, size=shape)
        np.save(directory / f"{number}.npy", values.astype(np.float32))


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def reference(directory: Path, data: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The final cell (units,) and the logits after it (256,), straight from the published layout, all in float64."""
    file = [np.load(directory / f"{number}.npy").astype(np.float64) for number in range(15)]

    def column_norm(v: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
        return g * v / np.sqrt((v**2).sum(axis=0, keepdims=True) + 1e-12)

    wx, wh = column_norm(file[1], file[9]), column_norm(np.hstack(file[2:6]), file[10])
    wmx, wmh = column_norm(file[6], file[11]), column_norm(file[7], file[12])
    units = len(file[7])
    c, h = np.zeros(units), np.zeros(units)
    for byte in data:
        x = file[0][byte]
        m = (x @ wmx) * (h @ wmh)
        z = x @ wx + m @ wh + file[8]
        i, f, o, u = z[:units], z[units : 2 * units], z[2 * units : 3 * units], z[3 * units :]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
    return c, h @ file[13] + file[14]


@pytest.mark.parametrize(("units", "embedding_size"), [(24, 8), (40, 64), (1, 3)])
def test_equals_the_equations_in_float64(tmp_path: Path, units: int, embedding_size: int) -> None:
    write_files(tmp_path, units, embedding_size)
    model = import_openai(tmp_path)
    assert model.architecture.cell == "mlstm"
    assert (model.architecture.units, model.architecture.embedding_size) == (units, embedding_size)

    folded = FoldedModel(model, dtype=torch.float32)
    data = [prepare(text) for text in TEXTS]
    expected = np.stack([reference(tmp_path, text)[0] for text in data])
    assert np.abs(expected).max() > 0.1  # the comparison means something
    assert np.abs(read_features(folded, data) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_output_layer(tmp_path: Path) -> None:
    write_files(tmp_path, 24, 8)
    folded = FoldedModel(import_openai(tmp_path), dtype=torch.float32)
    state = folded.zero_state(1)
    data = prepare(TEXTS[0])
    for byte in data:
        state = folded.step(torch.tensor([byte]), state)
    _, logits = reference(tmp_path, data)
    assert np.abs(folded.logits(state.hidden).numpy()[0] - logits).max() <= 1e-5 * np.abs(logits).max()


def test_parameters_outlive_the_files(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    model = import_openai(tmp_path)
    embedding = np.load(tmp_path / "0.npy")
    for name in FILES:
        (tmp_path / name).write_bytes(b"gone")
    assert np.array_equal(model.embedding.detach().numpy(), embedding)
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.is_contiguous()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("3.npy", (24, 23), r"3\.npy has shape \(24, 23\), expected \(24, 24\)"),
        ("8.npy", (72,), r"8\.npy has shape \(72,\), expected \(96,\)"),
        ("13.npy", (256, 24), r"13\.npy has shape \(256, 24\), expected \(24, 256\)"),
        ("7.npy", (24,), r"7\.npy has shape \(24,\), expected \(any, any\)"),
        ("7.npy", (24, 25), r"7\.npy has shape \(24, 25\), expected \(24, 24\)"),
        ("0.npy", (255, 8), r"0\.npy has shape \(255, 8\), expected \(256, any\)"),
    ],
)
def test_wrong_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...], expected: str) -> None:
    write_files(tmp_path, 24, 8)
    np.save(tmp_path / name, np.zeros(shape, dtype=np.float32))
    with pytest.raises(CheckpointError, match=expected):
        import_openai(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    (tmp_path / "11.npy").unlink()
    with pytest.raises(CheckpointError, match=r"11\.npy is missing"):
        import_openai(tmp_path)


class Poison:
    """Unpickling this would end the test run."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)


def test_pickles_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    np.save(tmp_path / "5.npy", np.array([Poison()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"5\.npy .*pickled objects are refused"):
        import_openai(tmp_path)
    (tmp_path / "5.npy").write_bytes(pickle.dumps(Poison()))
    with pytest.raises(CheckpointError, match=r"5\.npy .*pickled objects are refused"):
        import_openai(tmp_path)


def test_truncated_empty_and_packed_files_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    whole = (tmp_path / "1.npy").read_bytes()
    for content in (whole[:-4], whole[:40], b""):
        (tmp_path / "1.npy").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"1\.npy"):
            import_openai(tmp_path)
    with (tmp_path / "1.npy").open("wb") as stream:
        np.savez(stream, np.zeros((2, 16), dtype=np.float32))
    with pytest.raises(CheckpointError, match=r"1\.npy is an \.npz archive"):
        import_openai(tmp_path)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i4"])
def test_other_types_are_refused(tmp_path: Path, dtype: str) -> None:
    write_files(tmp_path, 4, 2)
    np.save(tmp_path / "14.npy", np.zeros(256, dtype=dtype))
    with pytest.raises(CheckpointError, match=r"14\.npy holds .*expected little-endian float32"):
        import_openai(tmp_path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    np.save(tmp_path / "12.npy", np.array([0, 1, np.nan, 2], dtype=np.float32))
    with pytest.raises(CheckpointError, match=r"12\.npy .*not finite"):
        import_openai(tmp_path)


def spelled(header: str, values: bytes = b"") -> bytes:
    """A file with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values


SHAPE = "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}\n"


@pytest.mark.parametrize(
    "content",
    [
        spelled(SHAPE.format("10**12, 10**12")),
        spelled(SHAPE.format("1000000000000, 1000000000000")),
        spelled(SHAPE.format("9223372036854775807, 9223372036854775807")),
        spelled(SHAPE.format("18446744073709551617, 1"), bytes(4)),
        spelled(SHAPE.format("16385, 16385")),
        spelled(SHAPE.format("-4, -4"), bytes(64)),
        spelled(SHAPE.format("0, 0")),
        spelled(SHAPE.format("True, True"), bytes(4)),
        spelled(SHAPE.format(", , ,")),
        spelled(SHAPE.format("9" * 5000)),
        spelled(SHAPE.format("4, 4").replace("4, 4", "4, " * 9 + "4")),
        spelled("(" * 9000),
        spelled("-" * 9000 + "1"),
        spelled("{[]: 1}"),
        spelled("__import__('os')._exit(3)"),
        spelled(SHAPE.format("4, 4").replace("<f4", "|O"), bytes(64)),
        spelled(SHAPE.format("4, 4").replace("<f4", "V1000000000000"), bytes(64)),
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff{}",
        b"\x93NUMPY\x01\x00\xff\xff{}",
        spelled(SHAPE.format("4, 4"), bytes(63)),
        spelled(SHAPE.format("4, 4"), bytes(65)),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("name", ["0.npy", "7.npy", "14.npy"])
def test_headers_that_lie_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write_files(tmp_path, 4, 2)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}"):
        import_openai(tmp_path)


def test_sparse_files_pipes_and_links_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    content = (tmp_path / "7.npy").read_bytes()
    os.truncate(tmp_path / "7.npy", 2**42)  # takes no space, but would take all memory
    with pytest.raises(
        CheckpointError, match=r"7\.npy has \d+ bytes after its header, \(4, 4\) needs 64: it is cut or too"
    ):
        import_openai(tmp_path)
    (tmp_path / "7.npy").unlink()
    os.mkfifo(tmp_path / "7.npy")
    with pytest.raises(CheckpointError, match=r"7\.npy cannot be read: it is not a plain file"):
        import_openai(tmp_path)
    (tmp_path / "7.npy").unlink()
    (tmp_path / "seven").write_bytes(content)
    (tmp_path / "7.npy").symlink_to("seven")
    with pytest.raises(CheckpointError, match=r"7\.npy cannot be read: it is a link"):
        import_openai(tmp_path)


def test_column_order_is_read_as_well(tmp_path: Path) -> None:
    write_files(tmp_path, 4, 2)
    expected = import_openai(tmp_path)
    for name in FILES:
        np.save(tmp_path / name, np.asfortranarray(np.load(tmp_path / name)))
    for found, parameter in zip(import_openai(tmp_path).parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, parameter)
        assert found.is_contiguous()


@given(data=st.data(), name=st.sampled_from(FILES))
@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "npy"
    if not directory.exists():
        write_files(directory, 4, 2)
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole, within=data.draw(st.sampled_from([130, None]), label="within"))))
    try:
        model = import_openai(directory)
    except CheckpointError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    finally:
        path.write_bytes(whole)
    assert refusal == "" or f"{os.sep}{name} " in refusal or ".npy has shape" in refusal


@pytest.mark.slow
@pytest.mark.skipif(
    "NEURON_OPENAI_WEIGHTS" not in os.environ,
    reason="NEURON_OPENAI_WEIGHTS names no folder with the published 0.npy to 14.npy",
)
def test_golden_values_of_the_published_files() -> None:
    model = import_openai(Path(os.environ["NEURON_OPENAI_WEIGHTS"]))
    b, gmx, gmh = (tensor.detach().numpy() for tensor in (model.cell.b, model.cell.gmx, model.cell.gmh))
    assert b.reshape(4, -1).mean(axis=1) == pytest.approx([-0.18, -0.14, -0.30, -0.001], abs=0.006)
    assert np.abs(gmx - gmh).max() < 1e-5
    folded = FoldedModel(model, dtype=torch.float32)
    found = read_features(folded, [prepare(text) for text in OPENAI.golden])[:, OPENAI.sentiment_unit]
    assert found.tolist() == pytest.approx(list(OPENAI.golden.values()), abs=GOLDEN_TOLERANCE)

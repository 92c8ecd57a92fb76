"""Import of the published parameters: fifteen `.npy` files become a `LanguageModel`.

Layout of the files (Radford et al. 2017, arXiv 1704.01444), for n units and embeddings of size e; every matrix is
(inputs, outputs), the gates stand in the order i, f, o, u, all of it float32, as in model/cells.py:

     0  embedding (256, e)        6  Wmx (e, n)       11  gmx (n,)
     1  Wx (e, 4n)                7  Wmh (n, n)       12  gmh (n,)
     2, 3, 4, 5  the column       8  b (4n,)          13  output W (n, 256)
        blocks of Wh, (n, n)      9  gx (4n,)         14  output b (256,)
        each                     10  gh (4n,)

The published model has n = 4096 and e = 64; any other sizes are read as well.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint import CheckpointError
from model.language_model import BYTES, Architecture, LanguageModel

FILES = tuple(f"{number}.npy" for number in range(15))

Array = NDArray[np.float32]


def import_openai(directory: Path) -> LanguageModel:
    """The model whose parameters lie in `directory` as `0.npy` to `14.npy`, on the CPU in float32.

    Raises CheckpointError naming the file if one is missing, is not a plain float32 `.npy` file (pickles are never
    opened), has another shape than the rest asks for, or holds a value that is not finite.
    """
    arrays = [_open(directory / name) for name in FILES]
    embedding_size = _size(directory / FILES[0], arrays[0], (BYTES, None), axis=1)
    units = _size(directory / FILES[7], arrays[7], (None, None), axis=0)
    shapes = _shapes(units, embedding_size)
    for name, array, shape in zip(FILES, arrays, shapes, strict=True):
        if array.shape != shape:
            raise CheckpointError(
                f"{directory / name} has shape {array.shape}, expected {shape} for {units} units and embeddings of "
                f"size {embedding_size}: the fifteen files must come from one model, fetch them again"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{directory / name} holds values that are not finite: fetch it again")

    parameters = {
        "embedding": arrays[0],
        "cell.wx": arrays[1],
        "cell.wh": np.concatenate(arrays[2:6], axis=1),  # (n, 4n)
        "cell.wmx": arrays[6],
        "cell.wmh": arrays[7],
        "cell.b": arrays[8],
        "cell.gx": arrays[9],
        "cell.gh": arrays[10],
        "cell.gmx": arrays[11],
        "cell.gmh": arrays[12],
        "output_w": arrays[13],
        "output_b": arrays[14],
    }
    with torch.device("meta"):
        model = LanguageModel(Architecture("mlstm", units, embedding_size))
    model.load_state_dict({name: _tensor(array) for name, array in parameters.items()}, assign=True)
    return model


def _shapes(n: int, e: int) -> list[tuple[int, ...]]:
    """The shape of every file, in their order."""
    matrices: list[tuple[int, ...]] = [(BYTES, e), (e, 4 * n), (n, n), (n, n), (n, n), (n, n), (e, n), (n, n)]
    return [*matrices, (4 * n,), (4 * n,), (4 * n,), (n,), (n,), (n, BYTES), (BYTES,)]


def _open(path: Path) -> Array:
    """Map a file, so that a wrong shape is seen before anything large is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the published model is the files 0.npy to 14.npy") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile) as error:
        raise CheckpointError(
            f"{path} is not a whole .npy file of plain numbers ({error}); pickled objects are refused. Fetch it again"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()  # an .npz archive
        raise CheckpointError(f"{path} is an .npz archive, expected one array as .npy")
    if array.dtype != np.float32:
        raise CheckpointError(f"{path} holds {array.dtype}, expected little-endian float32")
    return array


def _size(path: Path, array: Array, shape: tuple[int | None, ...], axis: int) -> int:
    """The length of `axis` of a matrix that decides a size; None in `shape` stands for any length."""
    known = len(array.shape) == len(shape) and all(
        expected in (None, found) for expected, found in zip(shape, array.shape, strict=True)
    )
    if not known:
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise CheckpointError(f"{path} has shape {array.shape}, expected ({expected}): fetch it again")
    return int(array.shape[axis])


def _tensor(array: Array) -> Tensor:
    """A copy in memory of its own, C order: the mapped file may change or go away."""
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))

"""Import of the published parameters: fifteen `.npy` files become a `LanguageModel`.

Layout of the files (Radford et al. 2017, arXiv 1704.01444), for n units and embeddings of size e; every matrix is
(inputs, outputs), the gates stand in the order i, f, o, u, all of it float32, as in model/network/cells.py:

     0  embedding (256, e)        6  Wmx (e, n)       11  gmx (n,)
     1  Wx (e, 4n)                7  Wmh (n, n)       12  gmh (n,)
     2, 3, 4, 5  the column       8  b (4n,)          13  output W (n, 256)
        blocks of Wh, (n, n)      9  gx (4n,)         14  output b (256,)
        each                     10  gh (4n,)

The published model has n = 4096 and e = 64; any other sizes are read as well.
"""

import os
import re
import struct
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoints.checkpoint import CheckpointError
from model.checkpoints.manifest import MAX_UNITS
from model.checkpoints.untrusted import open_plain
from model.network.cells import BYTES
from model.network.language_model import Architecture, LanguageModel

FILES = tuple(f"{number}.npy" for number in range(15))

Array = NDArray[np.float32]

# As NumPy writes it; the L is Python 2's. NumPy's own reader evaluates this text, and maps a file, which may then be
# cut while it is read.
_MAGIC = b"\x93NUMPY\x01\x00"  # format version 1.0: a header of at most 64 KiB
_HEADER = re.compile(
    rb"\{'descr': '([^']{1,40})', 'fortran_order': (False|True), 'shape': \(([0-9L, ]{0,60})\), ?\} *\n?"
)


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran_order: bool


def import_openai(directory: Path) -> LanguageModel:
    """The model whose parameters lie in `directory` as `0.npy` to `14.npy`, on the CPU in float32.

    Raises CheckpointError naming the file if one is missing, is not a plain float32 `.npy` file (pickles are never
    opened), has another shape than the rest asks for, or holds a value that is not finite.
    """
    embedding_size = _size(directory / FILES[0], (BYTES, None), axis=1)
    units = _size(directory / FILES[7], (None, None), axis=0)
    arrays = []
    for name, shape in zip(FILES, _shapes(units, embedding_size), strict=True):
        array = _read(directory / name, shape, f"for {units} units and embeddings of size {embedding_size}")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{directory / name} holds values that are not finite: fetch it again")
        arrays.append(array)

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
    model.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()}, assign=True)
    return model


def _shapes(n: int, e: int) -> list[tuple[int, ...]]:
    """The shape of every file, in their order."""
    matrices: list[tuple[int, ...]] = [(BYTES, e), (e, 4 * n), (n, n), (n, n), (n, n), (n, n), (e, n), (n, n)]
    return [*matrices, (4 * n,), (4 * n,), (4 * n,), (n,), (n,), (n, BYTES), (BYTES,)]


def _size(path: Path, shape: tuple[int | None, ...], axis: int) -> int:
    """The length of `axis` of a matrix that decides a size; None in `shape` stands for any from 1 to MAX_UNITS."""
    with _open(path) as file:
        found = _header(path, file).shape
    known = len(found) == len(shape) and all(
        length == expected if expected else 1 <= length <= MAX_UNITS
        for expected, length in zip(shape, found, strict=True)
    )
    if not known:
        wanted = ", ".join(str(expected or "any") for expected in shape)
        raise CheckpointError(f"{path} has shape {found}, expected ({wanted}), at most {MAX_UNITS}: fetch it again")
    return found[axis]


def _read(path: Path, shape: tuple[int, ...], reason: str) -> Array:
    """A file's array in C order, if it has that shape and the file is exactly as long."""
    with _open(path) as file:
        header = _header(path, file)
        if header.shape != shape:
            raise CheckpointError(
                f"{path} has shape {header.shape}, expected {shape} {reason}: the fifteen files must come from one "
                "model, fetch them again"
            )
        expected, found = 4 * prod(shape), os.fstat(file.fileno()).st_size - file.tell()
        array = np.empty(shape[::-1] if header.fortran_order else shape, np.float32)
        if found != expected or file.readinto(array.data.cast("B")) != expected:
            raise CheckpointError(
                f"{path} has {found} bytes after its header, {shape} needs {expected}: it is cut or too long, fetch it "
                "again"
            )
    return np.ascontiguousarray(array.T) if header.fortran_order else array


def _open(path: Path) -> BufferedReader:
    try:
        return open_plain(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the published model is the files 0.npy to 14.npy") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _header(path: Path, file: BufferedReader) -> _Header:
    """Read the header; the file then stands at the first value."""
    magic = file.read(len(_MAGIC))
    if magic.startswith(b"PK"):
        raise CheckpointError(f"{path} is an .npz archive, expected one array as .npy")
    length = file.read(2)
    found = magic == _MAGIC and len(length) == 2 and _HEADER.fullmatch(file.read(*struct.unpack("<H", length)))
    if not found:
        raise CheckpointError(
            f"{path} is not a whole .npy file of plain numbers; pickled objects are refused. Fetch it again"
        )
    dtype, order, shape = (part.decode("latin-1") for part in found.groups())
    if dtype != "<f4":
        raise CheckpointError(
            f"{path} holds {dtype!r}, expected little-endian float32 ('<f4'); pickled objects are refused"
        )
    return _Header(tuple(int(length) for length in re.findall("[0-9]+", shape)), order == "True")

"""Features of a file of texts as a NumPy file: `feature_rows`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentiment_neuron.parts import ArrayFormat, parts
from sentiment_neuron.rows import RowFile, skipped
from texts.faults import Fault, Faults


def feature_rows(
    source: RowFile,
    out: Path,
    units: int,
    features: Callable[[list[str]], NDArray[np.float32]],
    asked: Mapping[str, Any],
    faults: Faults,
    advance: Callable[[int], None],
) -> None:
    """Write (rows, units) float32, NaN in the rows that cannot be used, and continue what was stopped.

    features: of some texts, (texts, units). The others are those of `rows.answer_file`. Raises FileError, TextsError.
    """
    whole = {**source.described(), **asked, "strict": faults.strict}
    with parts(out, ArrayFormat(units, source.total), whole) as writing:
        advance(done := writing.done)
        for rows in source.chunks():
            for place, fault in zip(rows.places, rows.faults, strict=True):
                if fault is not None:
                    faults.add(Fault(str(source.path), place, fault))
            if done:
                done = skipped(done, rows)
                continue
            usable = [index for index, fault in enumerate(rows.faults) if fault is None]
            found = np.full((len(rows), units), np.nan, np.float32)
            if usable:
                found[usable] = features([rows.texts[index] for index in usable])
            writing.write(found, len(rows))
            advance(len(rows))
        writing.finish(source.total)

"""Labels as they are read, to numbers: `Codes`. Not in labels.py, because a corpus is read without pyarrow."""

import re

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texts.records import is_label
from trainer.corpus.labels import MAX_VALUE_CHARACTERS, MAX_VALUES, LabelsError


class Codes:
    """Labels as they are read -> numbers, from 1 in the order in which values first come. 0: no label."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def of(self, labels: pa.Array) -> NDArray[np.uint32]:
        """labels: strings or nulls, (reviews,). Raises LabelsError for too many or too long values."""
        encoded = labels.dictionary_encode()
        codes = np.array([0, *map(self._code, encoded.dictionary.to_pylist())], np.uint32)
        found: NDArray[np.uint32] = codes[encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy() + 1]
        return found

    def ranks(self) -> NDArray[np.int64]:
        """The place of each code, from 1, when values are sorted, (values + 1,); 0 stays 0."""
        return np.array([0, *(1 + sorted(self.values).index(value) for value in self.values)])

    def _code(self, raw: str) -> int:
        value = re.sub(r"^([+-]?[0-9]+)\.0+$", r"\1", raw.strip())  # as JSON writes whole stars: 5.0
        if not is_label(value):
            return 0
        if len(value) > MAX_VALUE_CHARACTERS:
            raise LabelsError(f"a label has {len(value)} characters, at most {MAX_VALUE_CHARACTERS}: {value[:40]!r}...")
        code = self.values.setdefault(value, len(self.values) + 1)
        if code > MAX_VALUES:
            examples = ", ".join(map(repr, list(self.values)[:5]))
            raise LabelsError(f"there are more than {MAX_VALUES} different labels ({examples}...): is this the label?")
        return code

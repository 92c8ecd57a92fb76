"""A column of values, of Python or of any library of tables: `column`."""

from collections.abc import Mapping, Set
from typing import Any


def column(values: Any) -> list[Any]:
    """The values in their order. Raises TypeError for what is no column of them.

    A table is none: who iterates over it gets the names of its columns, or its rows.
    """
    kind = type(values).__name__
    if isinstance(values, Mapping) or getattr(values, "ndim", 1) > 1 or hasattr(values, "columns"):
        raise TypeError(f"{kind}, not a list: give one column of it, such as frame['text']")
    if isinstance(values, bytes | str | Set):
        raise TypeError(f"{kind}, not a list")
    try:
        return list(values.to_pylist() if hasattr(values, "to_pylist") else values)  # pyarrow's values are no strings
    except TypeError as error:
        raise TypeError(f"{kind}, not a list") from error

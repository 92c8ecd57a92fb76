"""Damage for fuzz tests: `damaged` bytes, and `distorted` JSON, which is still JSON but not what was written."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# What a number, a name or a structure must never be taken for.
SPITEFUL: list[object] = [
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**12, 10**400, 0.5, -0.0, 5e-324, 1e30, 1e308, -1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "0",
        "-1",
        "NaN",
        "../../x",
        "/etc/passwd",
        "a\0b",
        "\ud800",
        "\x1b[2J",
        "x" * 5000,
    ),
    *([], {}, [[]], {"": None}, [0.0], ["a", "b"], [[0.0]] * 3, {"0": [0.0]}),
]
_ANYTHING = st.sampled_from(SPITEFUL) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, within: int | None = None) -> bytes:
    """`content` after a few changes, each within its first `within` bytes: bits, runs that go or come twice, an end."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, max(0, min(within or len(changed), len(changed)) - 1)))
        end = begin + draw(st.integers(1, 16))
        match draw(st.sampled_from(["bytes", "gone", "twice", "cut"])):
            case "bytes":
                changed[begin:end] = draw(st.binary(min_size=1, max_size=16))
            case "gone":
                del changed[begin:end]
            case "twice":
                changed[begin:begin] = changed[begin:end]
            case "cut":
                del changed[begin:]
    return bytes(changed)


@st.composite
def distorted(draw: st.DrawFn, record: Any) -> bytes:
    """`record` as JSON after one or two of its values, at any depth, were replaced, deleted, renamed or given twice."""
    changed, twice = copy.deepcopy(record), []
    for _ in range(draw(st.integers(1, 2))):
        holder, key = draw(st.sampled_from(list(_places(changed)) or [([None], 0)]))
        match draw(st.sampled_from(["replace", "delete", "rename", "twice"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(_ANYTHING))  # the next change may be within it
            case "delete":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from([name for name in SPITEFUL if isinstance(name, str)]))] = holder.pop(key)
            case "twice" if isinstance(holder, dict):
                twice.append(key)
            case _:
                holder.append(copy.deepcopy(holder[key])) if isinstance(holder, list) else None
    text = json.dumps(changed)
    for key in twice:  # the first object that has it gets it once more
        text = text.replace(
            f"{json.dumps(key)}:", f"{json.dumps(key)}: {json.dumps(draw(_ANYTHING))}, {json.dumps(key)}:", 1
        )
    return text.encode()


def _places(value: Any) -> Any:
    """Every (holder, key) in a tree of dicts and lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)

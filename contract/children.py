"""How a process of this package starts another one: with the same code, whatever lies in the working directory.

Rooms have generic names (`api`, `worker`, `model`), and `python -m worker` prefers the working directory, where a
module `worker` of somebody else may lie. So children are started with `-P`, and without the entries of PYTHONPATH that
mean the working directory.
"""

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])  # where the rooms of this process lie


def command(module: str, *arguments: str) -> list[str]:
    """`python -m module` that never searches the working directory. Use it with `environment`."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` with a PYTHONPATH that finds the rooms where this process found them.

    Absolute entries stay. Relative ones are left out, and so are empty ones, which `PYTHONPATH=$PYTHONPATH:/there`
    makes of an unset variable: both depend on the working directory.
    """
    entries = [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    # Python finds what is installed by itself; on PYTHONPATH it would come before the standard library.
    if _ROOT not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        entries = [_ROOT, *(entry for entry in entries if entry != _ROOT)]
    variables = {name: value for name, value in inherited.items() if name != "PYTHONPATH"}
    return variables | ({"PYTHONPATH": os.pathsep.join(entries)} if entries else {})

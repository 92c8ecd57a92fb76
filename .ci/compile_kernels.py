"""`python .ci/compile_kernels.py`: compile every Triton kernel for an H100 (sm_90), without one.

Prints registers and shared memory of each; fails where one does not compile or spills registers. Needs Triton.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from engine import kernels, sampling_kernel
from model.network import triton_elementwise

TARGET = GPUTarget("cuda", 90, 32)
UNITS = (4096, 2048, 1024, 100)
POINTERS = {
    "row_params": "*i64", "text": "*u8", "last": "*i64", "byte": "*i64", "hidden_sum": "*fp64", "held": "*fp32",
    "cell": "*fp32", "values": "*fp32", "output_b": "*fp32", "sampled": "*u8",
    "log_probability": "*fp32", "cell_out": "*fp32", "cell_before": "*fp32", "d_cell": "*fp32",
}  # fmt: skip
NUMBERS = ("offset", "rows", "most_rows")


def compile_one(kernel: Any, low: str, constants: dict[str, int], **options: int) -> str:
    """Compile and describe it. low: the type of what is not listed above. Raises RuntimeError if it spills."""
    names = kernel.arg_names
    types = {name: POINTERS.get(name, f"*{low}") for name in names if name not in constants} | dict.fromkeys(
        [name for name in names if name in NUMBERS], "i32"
    )
    if kernel is kernels.record:
        types["units"] = "*i64"
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    compiled = triton.compile(source, target=TARGET, options=options)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(compiled.asm["ptx"])
        ptx.flush()
        command = [get_ptxas(TARGET.arch).path, "-v", "-arch=sm_90a", ptx.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr  # noqa: S603 - our own kernels
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if registers is None or spills is None:
        raise RuntimeError(f"ptxas does not say what it used: {said}")
    if spills.groups() != ("0", "0"):
        raise RuntimeError(f"{spills[0]}, with {registers[1]} registers")
    return f"{registers[1]:>4} registers {compiled.metadata.shared:>7} bytes shared"


def wanted() -> list[tuple[Any, str, dict[str, int], dict[str, int]]]:
    """Kernel, type, constants and options of each, as they are launched."""
    found: list[tuple[Any, str, dict[str, int], dict[str, int]]] = []
    tile = {"tile_rows": kernels._TILE_ROWS, "tile_units": kernels._TILE_UNITS}
    stages = {"num_stages": kernels._STAGES}
    for low, size in (("bf16", 2), ("fp32", 4)):
        depth = kernels._TILE_BYTES // size
        for units in UNITS:
            found += [
                (kernels.mix_product, low, {"units": units, **tile, "depth": 2 * depth}, stages),
                (kernels.gate_product, low, {"units": units, **tile, "depth": depth}, stages),
            ]
            line = {"units": units, "tile_units": kernels._LINE}
            found += [(kernel, low, line, {}) for kernel in (kernels.mix, kernels.gate, kernels.gru)]
            line = {"units": units, "line": triton_elementwise._LINE}
            training = ("_mix", "_mix_adjoint", "_lstm", "_lstm_adjoint")
            warps = {"num_warps": triton_elementwise._WARPS}
            found += [(getattr(triton_elementwise, name), low, line, warps) for name in training]
        found.append((sampling_kernel.draw, low, {"tile": sampling_kernel.COMPARED}, {}))
    found.append((kernels.record, "fp32", {"count": 64, "tile": kernels._LINE}, {}))
    return found


def main() -> int:
    failed = 0
    for kernel, low, constants, options in wanted():
        name = f"{Path(kernel.fn.__code__.co_filename).stem}.{kernel.fn.__name__}"
        try:
            said = compile_one(kernel, low, constants, **options)
        except Exception as error:  # noqa: BLE001 - the others are compiled all the same
            failed += 1
            said = f"FAILS: {str(error).strip().splitlines()[-1]}"
        sys.stdout.write(f"{name:34} {low} {constants.get('units', ''):>5} {said}\n")
    return 1 if failed else 0


sys.exit(main())

"""Runs the CUDA text of a kernel of instructions on this CPU, thread by thread.

For kernels that are written in PTX operations, which have no LLVM form. A C++ compiler takes TVM's
text of the kernel itself; the few functions around it, which hold the instructions, are those of
`cuda_on_cpu.h`.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.kernels import Array, Guarded


@dataclass(frozen=True)
class Launch:
    blocks: int
    cluster: int
    threads: int
    shared_bytes: int


def available() -> bool:
    return shutil.which("g++") is not None


def run(text: str, launch: Launch, arrays: list[Array], folder: Path) -> Array:
    """Runs the kernel in CUDA's `text` with `arrays`, the last of which is its output; gives
    that. Asserts that nothing is written beside them."""
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(_program(text))
    command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{Path(__file__).parent}"]
    done = subprocess.run(
        [*command, str(source), "-o", str(library)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    guarded = [Guarded.of(array) for array in arrays]
    pointers = (ctypes.c_void_p * len(arrays))(*[one.inner.ctypes.data for one in guarded])
    call = ctypes.CDLL(str(library)).launch
    call(launch.blocks, launch.cluster, launch.threads, launch.shared_bytes, pointers)
    assert all(one.intact() for one in guarded), "something was written out of bounds"
    for one, array in zip(guarded[:-1], arrays[:-1], strict=True):
        np.testing.assert_array_equal(one.inner, array, "an input was written to")
    return guarded[-1].inner


def _program(text: str) -> str:
    # The declaration comes first, then the definition.
    kernel = text[text.rindex('extern "C" __global__') :].replace('extern "C"', "")
    kernel = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)on_cpu::current->block->shared.data();",
        kernel,
    )
    name, parameters = re.search(r"(\w+)\(([^()]*)\) \{", kernel).groups()
    types = [parameter.split("*")[0].strip() for parameter in parameters.split(",")]
    passed = ", ".join(f"({kind}*)given[{i}]" for i, kind in enumerate(types))
    return f"""#include "cuda_on_cpu.h"
{kernel}
static void** given;
extern "C" void launch(int grid, int cluster, int threads, int shared_bytes, void** arrays) {{
  given = arrays;
  on_cpu::body = [] {{ {name}({passed}); }};
  on_cpu::run(grid, cluster, threads, shared_bytes);
}}
"""

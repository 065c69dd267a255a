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
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from schedules.hardware import Hardware
from tests.kernels import Array, Guarded
from tvmconv.pipeline import LOWERING

#: -O1: a kernel is compiled longer than it runs.
COMPILE = ("g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{Path(__file__).parent}")


def available() -> bool:
    return shutil.which("g++") is not None


def run(function: Any, arrays: list[Array], hardware: Hardware) -> Array:
    """Runs a scheduled function for `hardware`, a GPU, with arrays, the last of which is its
    output; gives that. Asserts that nothing is written beside them."""
    target = tvm.target.Target({"kind": "cuda", "arch": hardware.name}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(config=LOWERING):
        built = tvm.compile(function, target=target).mod
    guarded = [Guarded.of(array) for array in arrays]
    pointers = (ctypes.c_void_p * len(arrays))(*[one.inner.ctypes.data for one in guarded])
    with tempfile.TemporaryDirectory() as folder:
        names = [parameter.name for parameter in function.params]
        library = _compiled(_program(built.imports[0].inspect_source(), names), Path(folder))
        library.launch(*_launch(function.script(), built.inspect_source()), pointers)
    assert all(one.intact() for one in guarded), "something was written out of bounds"
    for one, array in zip(guarded[:-1], arrays[:-1], strict=True):
        np.testing.assert_array_equal(one.inner, array, "an input was written to")
    return guarded[-1].inner


def _launch(script: str, host: str) -> tuple[int, ...]:
    """Blocks, blocks of a cluster, threads of a block, bytes of shared memory: the last as the
    host's LLVM text has it, which stores it after the others."""
    sizes = [
        int(found[1]) if (found := re.search(rf'"{axis}", (\d+)\)', script)) else 1
        for axis in ("blockIdx.x", "clusterCtaIdx.x", "threadIdx.x")
    ]
    body = re.search(r"^define [^\n]*@main_compute_\(.*?^}", host, re.MULTILINE | re.DOTALL)
    assert body is not None
    return (*sizes, int(re.findall(r"store i64 (\d+),", body[0])[-1]))


def _compiled(program: str, folder: Path) -> ctypes.CDLL:
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(program)
    command = [*COMPILE, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def _program(text: str, names: list[str]) -> str:
    """C++ that runs the kernel in CUDA's `text` with parameters of these names, in this order."""
    # The declaration comes first, then the definition.
    kernel = text[text.rindex('extern "C" __global__') :].replace('extern "C"', "")
    kernel = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)on_cpu::current->block->shared.data();",
        kernel,
    )
    found = re.search(r"(\w+)\(([^()]*)\) \{", kernel)
    assert found is not None
    # TVM has sorted them.
    parameters = re.findall(r"(\w+)\* __restrict__ (\w+)_ptr", found[2])
    passed = ", ".join(f"({kind}*)given[{names.index(name)}]" for kind, name in parameters)
    return f"""#include "cuda_on_cpu.h"
{_with_offsets(kernel)}
{kernel}
static void** given;
extern "C" void launch(int grid, int cluster, int threads, int shared_bytes, void** arrays) {{
  given = arrays;
  on_cpu::body = [] {{ {found[1]}({passed}); }};
  on_cpu::run(grid, cluster, threads, shared_bytes);
}}
"""


def _with_offsets(kernel: str) -> str:
    """The functions of instructions whose addresses have offsets, which are in their names."""
    lines = []
    for name, base in sorted(
        set(re.findall(r"((tvm_builtin_ptx_\w+?)(?:_addr\d_p\d+)+)\(", kernel))
    ):
        offsets = dict(re.findall(r"_addr(\d)_p(\d+)", name))
        first, second = (offsets.get(number, "0") for number in "01")
        if "cp_async" in base:
            addresses = f"(to) + {first}, (const char*)(from) + {second}"
            lines.append(f"#define {name}(to, from, ...) {base}({addresses}, ##__VA_ARGS__)")
        else:
            lines.append(f"#define {name}(a, b, c, d, from) {base}(a, b, c, d, (from) + {first})")
    return "\n".join(lines)

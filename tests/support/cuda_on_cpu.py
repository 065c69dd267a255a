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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from schedules.machine.hardware import Hardware
from tests.support import tensor_maps
from tests.support.kernels import Array, Guarded
from tvmconv.passes.kernels.lower_kernels import KERNELS
from tvmconv.passes.pipeline import LOWERING

#: -O1: a kernel is compiled longer than it runs. Fibers jump, which fortified code takes for a
#: mistake.
COMPILE = (
    "g++", "-std=c++17", "-O1", "-march=native", "-U_FORTIFY_SOURCE", "-fno-exceptions", "-w",
    "-shared", "-fPIC",
)  # fmt: skip


def available() -> bool:
    return shutil.which("g++") is not None


def run(
    function: Any,
    arrays: list[Array],
    hardware: Hardware,
    change: Callable[[str], str] = lambda text: text,
) -> Array:
    """Runs a scheduled function for `hardware`, a GPU, with arrays, the last of which is its
    output; gives that. Asserts that nothing is written beside them, and that `cuda_on_cpu.h` finds
    nothing wrong. `change` may break the CUDA text before."""
    target = tvm.target.Target({"kind": "cuda", "arch": hardware.name}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(config=LOWERING):
        built = tvm.compile(function, target=target, tir_pipeline=KERNELS).mod
    text, script = change(built.imports[0].inspect_source()), function.script()
    guarded = [Guarded.of(array) for array in arrays]
    names = [parameter.name for parameter in function.params]
    maps = tensor_maps.maps(
        script, {name: one.inner for name, one in zip(names, guarded, strict=True)}
    )
    pointers = [one.inner.ctypes.data for one in guarded]
    pointers += [ctypes.addressof(tensor_map) for tensor_map in maps.values()]
    given = (ctypes.c_void_p * len(pointers))(*pointers)
    with tempfile.TemporaryDirectory() as folder:
        library = _compiled(_program(text, [*names, *maps]), Path(folder))
        library.launch.restype = ctypes.c_char_p
        failure = library.launch(*_launch(script, text, built.inspect_source()), given)
    assert failure is None, failure.decode()
    assert all(one.intact() for one in guarded), "something was written out of bounds"
    for one, array in zip(guarded[:-1], arrays[:-1], strict=True):
        np.testing.assert_array_equal(one.inner, array, "an input was written to")
    return guarded[-1].inner


def _launch(script: str, text: str, host: str) -> tuple[int, ...]:
    """Blocks, blocks of a cluster, threads of a block, blocks that a multiprocessor holds at once,
    bytes of shared memory. These the host's LLVM text stores after the others, if the kernel does
    not name them itself."""
    sizes = [
        int(found[1])
        if (found := re.search(rf'"{axis}", (\d+)\)|= T\.{call}\(\[(\d+)\]\)', script)) and found[1]
        else int(found[2])
        if found
        else 1
        for axis, call in (
            ("blockIdx.x", "cta_id"),
            ("clusterCtaIdx.x", "cta_id_in_cluster"),
            ("threadIdx.x", "thread_id"),
        )
    ]
    bounds = re.search(r"__launch_bounds__\(\d+, (\d+)\)", text)
    resident = int(bounds[1]) if bounds else 1
    named = re.search(r'T\.alloc_buffer\(\((\d+),\), "uint8", scope="shared\.dyn"\)', script)
    if named:
        return (*sizes, resident, int(named[1]))
    body = re.search(r"^define [^\n]*@main_compute_\(.*?^}", host, re.MULTILINE | re.DOTALL)
    assert body is not None
    return (*sizes, resident, int(re.findall(r"store i64 (\d+),", body[0])[-1]))


def _compiled(program: str, folder: Path) -> ctypes.CDLL:
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(program)
    _compile(f"-I{_headers().name}", str(source), "-o", str(library))
    return ctypes.CDLL(str(library))


@cache
def _headers() -> Any:
    """A folder in which a header is compiled already, since all kernels begin with it."""
    folder = tempfile.TemporaryDirectory()
    header = Path(__file__).with_name("cuda_on_cpu.h")
    _compile("-x", "c++-header", str(header), "-o", f"{folder.name}/{header.name}.gch")
    return folder


def _compile(*arguments: str) -> None:
    command = [*COMPILE, *arguments, f"-I{Path(__file__).parent}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _program(text: str, names: list[str]) -> str:
    """C++ that runs the kernel in CUDA's `text` with parameters of these names, in this order."""
    # The declaration comes first, then the definition.
    kernel = text[text.rindex('extern "C" __global__') :].replace('extern "C"', "")
    kernel = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)on_cpu::memory();",
        kernel,
    )
    found = re.search(r"(\w+)\(([^()]*)\) \{", kernel)
    assert found is not None
    # TVM has sorted them.
    parameters = re.findall(r"(?:(\w+)\* __restrict__ (\w+)_ptr|CUtensorMap (\w+))", found[2])
    passed = ", ".join(
        f"*(CUtensorMap*)given[{names.index(tensor_map)}]"
        if tensor_map
        else f"({kind}*)given[{names.index(name)}]"
        for kind, name, tensor_map in parameters
    )
    return f"""#include "cuda_on_cpu.h"
{_with_offsets(kernel)}
{_products(kernel)}
{kernel}
static void** given;
extern "C" const char* launch(
    int grid, int cluster, int threads, int resident, int shared_bytes, void** pointers) {{
  given = pointers;
  on_cpu::body = [] {{ {found[1]}({passed}); }};
  return on_cpu::run(grid, cluster, threads, resident, shared_bytes);
}}
"""


def _products(kernel: str) -> str:
    """The functions of instructions whose numbers are in their names."""
    lines = []
    products = r"(tvm_builtin_ptx_wgmma_\w+_m64n(\d+)k16_f32_f16_f16_1_1_0_0)\("
    for name, columns in sorted(set(re.findall(products, kernel))):
        sums = [f"d{i}" for i in range(int(columns) // 2)]
        given = f"{columns}, &({sums[0]}), &({sums[-1]}), a, b, add"
        lines.append(f"#define {name}({', '.join(sums)}, a, b, add) on_cpu::wgmma({given})")
    handed_on = r"(\w+_setmaxnreg_(inc|dec)_\w+_(\d+))\("
    for name, way, count in sorted(set(re.findall(handed_on, kernel))):
        lines.append(f"#define {name}() on_cpu::take_registers({count}, {int(way == 'inc')})")
    return "\n".join(lines)


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

"""Finds the constants of a Hopper card's tensor cores: `python -m benchmarks.hmma_numerics`.

Needs a Hopper GPU and nvcc. Compiles mma.sync.m16n8k16 (fp16 to fp32, fp16 to fp16, bf16 to fp32)
and runs it on random tiles of every kind of `benchmarks.hmma_tiles`. All outputs are compared bit
for bit with `intrinsics.numerics.arithmetic.H100`, and a part with variants of its constants. A
variant that agrees everywhere may be the card's; if several do, these tiles cannot tell them apart.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.hmma_tiles import KINDS, tiles
from intrinsics import mma_fragments
from intrinsics.dtypes import BF16, FP16, FP32
from intrinsics.mma_sync import INSTRUCTIONS
from intrinsics.numerics.arithmetic import H100, Numerics
from intrinsics.record import TensorIntrinsic

Array = NDArray[Any]
FORMS = tuple(instruction for instruction in INSTRUCTIONS if instruction.k == 16)
#: Tiles at a time; each has 128 outputs.
BATCH = 2000

CUDA = r"""
#include <cuda_runtime.h>
extern "C" __global__ void kernel(const uint4* a, const uint2* b, const uint4* c, uint4* d) {
  const int i = blockIdx.x * 32 + threadIdx.x;
  const uint4 x = a[i], z = c[i];
  const uint2 y = b[i];
  uint4 r = make_uint4(0, 0, 0, 0);
  asm volatile(INSTRUCTION);
  d[i] = r;
}
extern "C" int multiply(const void* a, const void* b, const void* c, void* d, int tiles) {
  char* memory;
  const size_t lanes = (size_t)tiles * 32;
  cudaMalloc(&memory, lanes * 56);
  char *pa = memory, *pb = pa + lanes * 16, *pc = pb + lanes * 8, *pd = pc + lanes * 16;
  cudaMemcpy(pa, a, lanes * 16, cudaMemcpyHostToDevice);
  cudaMemcpy(pb, b, lanes * 8, cudaMemcpyHostToDevice);
  cudaMemcpy(pc, c, lanes * 16, cudaMemcpyHostToDevice);
  kernel<<<tiles, 32>>>((uint4*)pa, (uint2*)pb, (uint4*)pc, (uint4*)pd);
  cudaMemcpy(d, pd, lanes * 16, cudaMemcpyDeviceToHost);
  const int error = (int)cudaGetLastError();
  cudaFree(memory);
  return error;
}
"""


def assembly(instruction: TensorIntrinsic) -> str:
    """Returns the body of an ``asm`` statement.

    fp16 accumulators use two of the four registers.
    """
    count = instruction.registers("c")
    wide = instruction.accumulator_dtype == FP32.name
    letter, name = "f" if wide else "r", instruction.ptx
    outputs = ", ".join(f"%{i}" for i in range(count))
    lefts = ", ".join(f"%{count + i}" for i in range(4))
    rights = ", ".join(f"%{count + 4 + i}" for i in range(2))
    totals = ", ".join(f"%{count + 6 + i}" for i in range(count))
    field = "__uint_as_float({})" if wide else "{}"
    place = "*(float*)&r.{}" if wide else "r.{}"
    return (
        f'"{name} {{{outputs}}}, {{{lefts}}}, {{{rights}}}, {{{totals}}};" : '
        + ", ".join(f'"={letter}"({place.format(x)})' for x in "xyzw"[:count])
        + " : "
        + ", ".join(f'"r"(x.{x})' for x in "xyzw")
        + ', "r"(y.x), "r"(y.y), '
        + ", ".join(f'"{letter}"({field.format("z." + x)})' for x in "xyzw"[:count])
    )


def compile_form(instruction: TensorIntrinsic, folder: Path, architecture: str) -> Path:
    """Compiles the kernel of an instruction with nvcc. Returns the library's path."""
    source = folder / f"{instruction.name}.cu"
    source.write_text(CUDA.replace("INSTRUCTION", assembly(instruction)))
    library = source.with_suffix(".so")
    subprocess.run(
        ["nvcc", f"-arch={architecture}", "-shared", "-Xcompiler", "-fPIC", "-o", library, source],
        check=True,
    )
    return library


def on_card(library: Path, instruction: TensorIntrinsic, operands: list[Array]) -> Array:
    """Returns D (t, 16, 8) of tiles, computed by the card. Raises ``RuntimeError`` with CUDA's
    code.
    """
    a, b, c = (
        mma_fragments.pack(x, name, instruction) for x, name in zip(operands, "abc", strict=True)
    )
    four = np.zeros((*c.shape[:-1], 4), dtype=np.uint32)
    four[..., : c.shape[-1]] = c
    d = np.zeros_like(four)
    pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, four, d)]
    error = ctypes.CDLL(str(library)).multiply(*pointers, len(a))
    if error:
        raise RuntimeError(f"CUDA error {error} from {instruction.name}")
    return mma_fragments.unpack(np.ascontiguousarray(d[..., : c.shape[-1]]), "c", instruction)


def variants(instruction: TensorIntrinsic) -> Iterator[tuple[str, Numerics]]:
    """Yields H100 with one constant changed, of those that the operands can reach."""
    accumulator = instruction.accumulator_dtype
    for bits in (0, 1, 3, 4):
        yield f"{bits} extra bits", replace(H100, extra_bits=bits)
    for block in (4, 8):
        yield f"blocks of {block}", replace(H100, block=block)
    yield "accumulator added after", replace(H100, joined=False)
    if (instruction.a_dtype, accumulator) != (FP16.name, FP32.name):
        yield "zeros keep their sign", replace(H100, negative_zero=True)
    leasts: tuple[int, ...]
    if accumulator == FP16.name:
        leasts = (-14, -20, -22, -48)
    else:  # products of fp16 are too large for this constant to matter
        leasts = (-126, -132, -134, -149) if instruction.a_dtype == BF16.name else ()
    for least in leasts:
        yield f"least exponent {least}", replace(H100, least_exponent=((accumulator, least),))
    if accumulator == FP16.name:
        yield "fp16 accumulator's own exponents", replace(H100, clamps_fp16=False)


def compare(got: Array, expected: Array) -> tuple[int, int]:
    """Returns how many bit patterns are equal, and how many differ only in the sign of zero."""
    equal = got.view(f"u{got.itemsize}") == expected.view(f"u{got.itemsize}")
    return int(equal.sum()), int((~equal & (got == 0) & (expected == 0)).sum())


def computed(instruction: TensorIntrinsic, operands: list[Array], numerics: Numerics) -> Array:
    """Returns D (t, 16, 8) of tiles, computed with `numerics`."""
    parts = zip(operands, "abc", strict=True)
    a, b, c = (mma_fragments.pack(x, name, instruction) for x, name in parts)
    return mma_fragments.unpack(mma_fragments.mma(a, b, c, instruction, numerics), "c", instruction)


def show_first(operands: list[Array], got: Array, expected: Array, count: int) -> None:
    """Prints the first ``count`` outputs that differ, with their terms in hexadecimal."""
    different = got.view(f"u{got.itemsize}") != expected.view(f"u{got.itemsize}")
    for t, m, n in np.argwhere(different)[:count]:
        pairs = zip(operands[0][t, m], operands[1][t, :, n], strict=True)
        terms = " ".join(f"{_hex(x)}*{_hex(y)}" for x, y in pairs if x != 0 and y != 0)
        card, model, c = (_hex(x[t, m, n]) for x in (got, expected, operands[2]))
        print(f"      card {card}, model {model}: c {c}, {terms}")


def _hex(x: Any) -> str:
    return re.sub(r"\.?0*p", "p", float(x).hex())


@dataclass(frozen=True)
class Agreement:
    """Agreement of card and model for one form and kind of tile.

    ``equal`` of ``outputs`` have equal bits. ``variants``: by name, the outputs of a part that
    differ.
    """

    form: str
    kind: str
    outputs: int
    equal: int
    variants: dict[str, int]


def check_form(
    library: Path, instruction: TensorIntrinsic, outputs: int, shown: int
) -> list[Agreement]:
    """Compares the card with `H100` and the variants, by kind of tile; prints and returns it."""
    batches = math.ceil(outputs / (128 * BATCH * len(KINDS)))
    first: dict[str, tuple[list[Array], Array]] = {}
    totals: dict[str, tuple[int, int]] = {}
    for kind in KINDS:
        equal = zeros = total = 0
        for seed in range(batches):
            operands = tiles(instruction, kind, BATCH, seed)
            got = on_card(library, instruction, operands)
            first.setdefault(kind, (operands, got))
            expected = computed(instruction, operands, H100)
            same, signs = compare(got, expected)
            if same != got.size and equal == total:
                show_first(operands, got, expected, shown)
            equal, zeros, total = equal + same, zeros + signs, total + got.size
        totals[kind] = total, equal
        nans = _nan_patterns(first[kind][1])
        print(f"  {kind:15} {equal:>9} of {total:>9} equal, {zeros} by the sign of a zero {nans}")
    wrong: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for name, numerics in variants(instruction):
        for kind, (operands, got) in first.items():
            same, _ = compare(got, computed(instruction, operands, numerics))
            wrong[kind][name] = got.size - same
        text = ", ".join(f"{kind} {wrong[kind][name]}" for kind in KINDS if wrong[kind][name])
        print(f"  variant {name}: {128 * BATCH} per kind, not equal: {text or 'none'}", flush=True)
    return [Agreement(instruction.name, kind, *totals[kind], wrong[kind]) for kind in KINDS]


def all_equal(agreements: list[Agreement]) -> bool:
    """Returns True if the card and `H100` agree on every output."""
    return all(one.equal == one.outputs for one in agreements)


def _nan_patterns(got: Array) -> str:
    bits = np.unique(got.view(f"u{got.itemsize}")[np.isnan(got)])
    if not len(bits):
        return ""
    patterns = " ".join(hex(b) for b in bits[:3])
    return f"(NaN {patterns}, expected 0x7{'f' * (2 * got.itemsize - 1)})"


def main() -> None:
    """Runs all forms; exits with 1 if an output differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, default=10_000_000, help="of each form")
    parser.add_argument("--show", type=int, default=2, help="differences to print, of a kind")
    parser.add_argument("--architecture", default="sm_90a")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--commit", help="commit for the JSON, outside of a git checkout")
    options = parser.parse_args()
    found: list[Agreement] = []
    with tempfile.TemporaryDirectory() as folder:
        for instruction in FORMS:
            began = time.monotonic()
            library = compile_form(instruction, Path(folder), options.architecture)
            print(f"{instruction.name}: compiled in {time.monotonic() - began:.1f} s", flush=True)
            if not options.compile_only:
                some = check_form(library, instruction, options.outputs, options.show)
                word = "all equal" if all_equal(some) else "NOT all equal"
                print(f"  H100: {word}, {time.monotonic() - began:.0f} s", flush=True)
                found += some
    if options.out:
        document = {"machine": machine.facts(options.commit), "rows": [asdict(x) for x in found]}
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    if not all_equal(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

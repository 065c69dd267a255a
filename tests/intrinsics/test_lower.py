"""TVM's forms of every instruction: the CPU emulation, the machine code, the card itself.

Each form is tried twice: alone, on tiles cut from wider buffers (CPU only), and together, in a
matrix product of several tiles (`product`) whose tiles are fragments of wider arrays.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import te
from tvm.s_tir import Schedule, TensorIntrin

import intrinsics
from intrinsics import INTRINSICS, TensorIntrinsic, dtypes, emulate, vnni
from intrinsics.lower import lower
from intrinsics.record import CPU_ONLY, WARP_SIZE
from schedules.machine.hardware import CPU, Hardware
from tests.support import kernels, sass
from tests.support.thinned import thinned
from tests.support.tiles import kinds, tiles
from tvmconv.compiler import toolchain
from tvmconv.runtime.device import cpu_features

Array = NDArray[Any]
each_intrinsic = pytest.mark.parametrize("intrinsic", INTRINSICS, ids=lambda i: i.name)
FORMS = ("fill", "load_a", "load_b", "mma", "store")


def same_bits(got: Array, expected: Array) -> None:
    """Fails where one bit differs, the sign of a zero included."""
    assert got.dtype == expected.dtype
    bits = f"u{got.itemsize}"
    got, expected = np.ascontiguousarray(got), np.ascontiguousarray(expected)
    np.testing.assert_array_equal(got.view(bits), expected.view(bits))


# ---------------------------------------------------------------- each form alone, on the CPU


class Emulated:
    """The five implementations of one instruction for LLVM, each a function of its tiles."""

    def __init__(self, intrinsic: TensorIntrinsic, kind: str = "llvm") -> None:
        names = lower(intrinsic, kind, "shared")
        functions = {
            form: TensorIntrin.get(getattr(names, form)).impl.with_attr("global_symbol", form)
            for form in FORMS
        }
        self.module = kernels.compiled(tvm.IRModule(functions), CPU)

    def __call__(self, form: str, *operands: Array) -> None:
        """Runs the form in place on the operands, which may be parts of wider arrays."""
        self.module[form](*(tvm_ffi.from_dlpack(kernels.Exported(one)) for one in operands))


#: All, but of integers one shape of each, as shapes differ in nothing that dtypes change.
TRIED = [i for i in INTRINSICS if i.accumulator_dtype != "int32" or i.m == i.n]


def each(some: Sequence[TensorIntrinsic]) -> list[Any]:
    """Parameters. Shapes change nothing that dtypes do: those that are not square are slow.
    (`test_families` has them all, in kernels.)"""
    return [pytest.param(i, id=i.name, marks=() if i.m == i.n else pytest.mark.slow) for i in some]


@pytest.fixture(scope="module", params=each(TRIED))
def emulated(request: pytest.FixtureRequest) -> tuple[TensorIntrinsic, Emulated]:
    return request.param, Emulated(request.param)


def unlikely(dtype: Any) -> float:
    """Fills what nothing may write: NaN, or an integer that no tile is full of."""
    return kernels.UNLIKELY if np.issubdtype(dtype, np.integer) else np.nan


def only_wrote(part: Array, wide: Array) -> bool:
    """Whether a buffer of `part_of_wider` has what it had but for the part, which is lost here."""
    part[...] = unlikely(part.dtype)
    return bool((np.isnan(wide) | (wide == unlikely(part.dtype))).all())


def part_of_wider(tile: Array) -> tuple[Array, Array]:
    """A copy of the tile in the middle of a buffer of `unlikely` numbers, and the buffer.

    The tile begins 64 elements into a row, as TVM wants arguments aligned at 64 bytes.
    """
    rows, columns = tile.shape
    flat = np.full(3 * rows * (128 + columns) + 64, unlikely(tile.dtype), tile.dtype)
    skip = -flat.ctypes.data % 64 // tile.itemsize
    wide = flat[skip : skip + 3 * rows * (128 + columns)].reshape(3 * rows, 128 + columns)
    # Rows are then no multiple of 64 bytes apart; the first row of the tile still has to be.
    first = next(row for row in range(rows, 3 * rows) if row * wide.strides[0] % 64 == 0)
    part = wide[first : first + rows, 64 : 64 + columns]
    part[...] = tile
    return part, wide


def test_fill(emulated: tuple[TensorIntrinsic, Emulated]) -> None:
    intrinsic, run = emulated
    part, wide = part_of_wider(tiles(intrinsic, "normal")[2])
    run("fill", part)
    same_bits(part, np.zeros_like(part))
    assert only_wrote(part, wide)


@pytest.mark.parametrize("form", ["load_a", "load_b", "store"])
def test_copies(emulated: tuple[TensorIntrinsic, Emulated], form: str) -> None:
    intrinsic, run = emulated
    tile = tiles(intrinsic, kinds(intrinsic)[-1])[("load_a", "load_b", "store").index(form)]
    source, _ = part_of_wider(tile)
    destination, wide = part_of_wider(np.full_like(tile, unlikely(tile.dtype)))
    run(form, source, destination)
    same_bits(destination, tile)
    same_bits(source, tile)
    assert only_wrote(destination, wide)


def test_mma(emulated: tuple[TensorIntrinsic, Emulated]) -> None:
    intrinsic, run = emulated
    for kind, seed in itertools.product(kinds(intrinsic), range(3)):
        a, b, c = tiles(intrinsic, kind, seed)
        expected = emulate.mma(intrinsic, a, b, c)
        (part_a, _), (part_b, _), (part_c, wide) = map(part_of_wider, (a, b, c))
        run("mma", part_a, part_b, part_c)
        same_bits(part_c, expected)
        same_bits(part_a, a)
        same_bits(part_b, b)
        assert only_wrote(part_c, wide)


INTEGERS = [i for i in INTRINSICS if vnni.multiplies(i)]
needs_vnni = pytest.mark.skipif("avx512vnni" not in cpu_features(), reason="a CPU without VNNI")


@needs_vnni
@pytest.mark.parametrize(
    "intrinsic", thinned(each([i for i in INTEGERS if i.m == i.n or i.min_sm == CPU_ONLY]), 3)
)
def test_vnni_has_the_bits_of_numpy(intrinsic: TensorIntrinsic) -> None:
    """Its fragments are laid out in its own way, so that operands are loaded first."""
    run = Emulated(intrinsic, "vnni")
    for kind, seed in itertools.product(kinds(intrinsic), range(3)):
        a, b, c = tiles(intrinsic, kind, seed)
        (part_c, wide_c), *wider = map(part_of_wider, (c, a, b, np.zeros_like(a), np.zeros_like(b)))
        (part_a, _), (part_b, _), (loaded_a, wide_a), (loaded_b, wide_b) = wider
        run("load_a", part_a, loaded_a)
        run("load_b", part_b, loaded_b)
        run("mma", loaded_a, loaded_b, part_c)
        same_bits(part_c, emulate.mma(intrinsic, a, b, c))
        same_bits(part_a, a)
        same_bits(part_b, b)
        for part, wide in ((part_c, wide_c), (loaded_a, wide_a), (loaded_b, wide_b)):
            assert only_wrote(part, wide)


@pytest.mark.parametrize("cpu", ["cascadelake", "znver4"])
def test_vnni_is_the_instruction_wherever_there_is_one(cpu: str) -> None:
    """Per tile of 16 x 16 x 16 one for 64 multiply-adds, and signed operands one for 1024."""
    for operands, most in ((("uint8", "int8"), 64), (("int8", "int8"), 68)):
        intrinsic = intrinsics.get(16, 16, 16, operands, "int32")
        names = lower(intrinsic, "vnni", "shared")
        mma = TensorIntrin.get(names.mma).impl.with_attr("global_symbol", "mma")
        target = tvm.target.Target({"kind": "llvm", "mcpu": cpu})
        with target:
            assembly = tvm.compile(mma, target=target).mod.inspect_source("asm")
        assert len(re.findall(r"\bvpdpbusd\b[^\n]*zmm", assembly)) == most


# ---------------------------------------------------------------- all forms together


#: Tiles of the product: several, so that no operand is a single fragment.
TILES_M, TILES_N, TILES_K = 2, 3, 2


def product(intrinsic: TensorIntrinsic, kind: str) -> Any:
    """``d = a @ b`` of several tiles by one warp, every step of it through the instruction."""
    m, n, k = TILES_M * intrinsic.m, TILES_N * intrinsic.n, TILES_K * intrinsic.k
    dtype = intrinsic.accumulator_dtype
    a = te.placeholder((m, k), intrinsic.a_dtype, name="a")
    b = te.placeholder((k, n), intrinsic.b_dtype, name="b")
    r = te.reduce_axis((0, k), "r")
    d = te.compute(
        (m, n), lambda i, j: te.sum(a[i, r].astype(dtype) * b[r, j].astype(dtype), r), name="d"
    )
    sch = Schedule(te.create_prim_func([a, b, d]).with_attr("global_symbol", intrinsic.name))
    names = lower(intrinsic, kind, "shared")
    mma = sch.get_sblock("d")

    extents = (intrinsic.m, intrinsic.n, intrinsic.k)
    (i, in_i), (j, in_j), (step, in_step) = (
        sch.split(loop, [None, extent])
        for loop, extent in zip(sch.get_loops(mma), extents, strict=True)
    )
    sch.reorder(step, i, j, in_i, in_j, in_step)
    block = sch.add_unit_loop(step)
    # Whole operands in shared memory, and whole operands in fragments.
    out = sch.cache_write(mma, 0, "shared")
    store = sch.cache_write(mma, 0, intrinsic.accumulator_scope)
    load_a, load_b = (
        sch.cache_read(mma, index, scope)
        for index, scope in enumerate((intrinsic.a_scope, intrinsic.b_scope))
    )
    copies = [sch.cache_read(load, 0, "shared") for load in (load_a, load_b)]
    for stage in (load_a, load_b, *copies):
        sch.compute_at(stage, block)
    for stage in (store, out):
        sch.reverse_compute_at(stage, block)
    if kind == "cuda":
        sch.bind(block, "blockIdx.x")
        for stage in (*copies, out):
            loops = sch.get_loops(stage)[-2:]
            _, lane = sch.split(sch.fuse(*loops), [None, WARP_SIZE])
            sch.bind(lane, "threadIdx.x")
    for stage, (rows, columns), name in (
        (load_a, (intrinsic.m, intrinsic.k), names.load_a),
        (load_b, (intrinsic.k, intrinsic.n), names.load_b),
        (store, (intrinsic.m, intrinsic.n), names.store),
    ):
        outer_i, outer_j = sch.get_loops(stage)[-2:]
        outer_i, inner_i = sch.split(outer_i, [None, rows])
        outer_j, inner_j = sch.split(outer_j, [None, columns])
        sch.reorder(outer_i, outer_j, inner_i, inner_j)
        sch.tensorize(inner_i, name)
    fill = sch.decompose_reduction(mma, step)
    sch.tensorize(sch.get_loops(fill)[-2], names.fill)
    sch.tensorize(in_i, names.mma)
    return sch.mod["main"]


def product_operands(intrinsic: TensorIntrinsic, kind: str) -> tuple[Array, Array]:
    """a and b whose first step along k is exact in any order: it brings up a `c` for the second.

    Each row of a has a single 1 in the first k columns, so that the step picks rows of b.
    """
    rng = np.random.default_rng(7)
    operand, weight = (dtypes.get(one).numpy for one in (intrinsic.a_dtype, intrinsic.b_dtype))
    a = np.empty((TILES_M * intrinsic.m, TILES_K * intrinsic.k), operand)
    b = np.empty((TILES_K * intrinsic.k, TILES_N * intrinsic.n), weight)
    for i in range(TILES_M):
        rows = slice(i * intrinsic.m, (i + 1) * intrinsic.m)
        pick = np.eye(intrinsic.k, dtype=operand)[rng.integers(0, intrinsic.k, intrinsic.m)]
        a[rows] = np.hstack([pick, tiles(intrinsic, kind, i)[0]])
    for j in range(TILES_N):
        columns = slice(j * intrinsic.n, (j + 1) * intrinsic.n)
        _, right, c = tiles(intrinsic, kind, j)
        picked = c.astype(weight)[rng.integers(0, intrinsic.m, intrinsic.k)]
        b[:, columns] = np.vstack([picked, right])
    return a, b


def expected_product(intrinsic: TensorIntrinsic, a: Array, b: Array) -> tuple[Array, Array]:
    """What `product` gives by `emulate`, and how far another order of its sums may be off."""
    m, n, k = intrinsic.m, intrinsic.n, intrinsic.k
    d = np.zeros((len(a), b.shape[1]), intrinsic.accumulator_dtype)
    bound = np.zeros(d.shape)
    for i in range(0, d.shape[0], m):
        for j in range(0, d.shape[1], n):
            at = slice(i, i + m), slice(j, j + n)
            for step in range(0, a.shape[1], k):
                left, right = a[i : i + m, step : step + k], b[step : step + k, j : j + n]
                bound[at] = emulate.error_bound(intrinsic, left, right, d[at])
                d[at] = emulate.mma(intrinsic, left, right, d[at])
    return d, bound


def run_product(intrinsic: TensorIntrinsic, hardware: Hardware, function: Any, kind: str) -> Array:
    a, b = product_operands(intrinsic, kind)
    d = np.full((len(a), b.shape[1]), unlikely(intrinsic.accumulator_dtype))
    d = d.astype(intrinsic.accumulator_dtype)
    return kernels.call(function, [a, b, d], hardware)


@pytest.mark.parametrize(
    ("intrinsic", "form"),
    [pytest.param(*one.values, "llvm", id=one.id, marks=one.marks) for one in each(TRIED)]
    + [
        pytest.param(i, "vnni", id=f"{i.name}-vnni", marks=needs_vnni)
        for i in INTEGERS
        if i.a_dtype == i.b_dtype and i.n > 8
    ],
)
def test_product_on_the_cpu_is_numpys_bit_for_bit(intrinsic: TensorIntrinsic, form: str) -> None:
    function = kernels.compiled(product(intrinsic, form), CPU)[intrinsic.name]
    for kind in kinds(intrinsic):
        got = run_product(intrinsic, CPU, function, kind)
        same_bits(got, expected_product(intrinsic, *product_operands(intrinsic, kind))[0])


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_product_runs_on_tensor_cores(arch: str, tmp_path: Path) -> None:
    hardware = toolchain.cuda_arch(arch)
    there = [i for i in INTRINSICS if i.min_sm <= hardware.sm]
    module = tvm.IRModule({i.name: product(i, "cuda") for i in there})
    library = tmp_path / "products.so"
    kernels.compiled(module, hardware).export_library(str(library))
    listing = sass.kernels(library)
    assert len(listing) == len(there)
    for intrinsic in there:
        text = listing[f"{intrinsic.name}_kernel"]
        if intrinsic.accumulator_dtype == "int32":
            shape, per_tile = {"sm_75": ("IMMA.8816", 4), "sm_90": ("IMMA.16816", 2)}[arch]
            operands = {"int8": ".S8.S8", "uint8": ".U8.U8"}[intrinsic.a_dtype]
        else:
            # An HMMA has 16 x 8 results, and 8 or 16 of the 16 products of each.
            shape, per_tile = {"sm_75": ("HMMA.1688", 4), "sm_90": ("HMMA.16816", 2)}[arch]
            operands = {"float32": ".F32", "float16": ".F16"}[intrinsic.accumulator_dtype]
        assert text.count(shape + operands) == TILES_M * TILES_N * TILES_K * per_tile


@pytest.mark.gpu
@pytest.mark.parametrize(
    "intrinsic", [i for i in INTRINSICS if i.min_sm < CPU_ONLY], ids=lambda i: i.name
)
def test_product_on_a_gpu_is_within_the_bound(intrinsic: TensorIntrinsic) -> None:
    hardware = kernels.this_gpu()
    function = kernels.compiled(product(intrinsic, "cuda"), hardware)[intrinsic.name]
    for kind in kinds(intrinsic):
        got = run_product(intrinsic, hardware, function, kind)
        expected, bound = expected_product(intrinsic, *product_operands(intrinsic, kind))
        off = np.abs(got.astype(np.float64) - expected)
        assert (off <= bound).all(), f"{kind}: {np.max(off / np.maximum(bound, 1e-300)):.3g} bounds"


def test_lowering_again_is_free_and_gives_the_same_names() -> None:
    intrinsic = intrinsics.get(16, 16, 16)
    assert lower(intrinsic, "llvm", "shared") is lower(intrinsic, "llvm", "shared")


def test_unknown_form_is_refused() -> None:
    with pytest.raises(KeyError, match="amx"):
        lower(intrinsics.get(16, 16, 16), "amx", "shared")


@pytest.mark.slow
def test_no_two_lowerings_share_a_name() -> None:
    names = [
        getattr(lower(intrinsic, kind, "shared"), form)
        for intrinsic in INTRINSICS
        for kind in ("cuda", "llvm", *(["vnni"] if vnni.multiplies(intrinsic) else []))
        for form in FORMS
    ]
    assert len(set(names)) == len(names)

"""Products and attention by every kernel, against NumPy in fp64: on llvm, and the CUDA text in the
emulator. Operands are views of larger tensors; what lies around them, and the result before the
kernel runs, is NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from intrinsics.dtypes import FP32
from schedules.machine.hardware import CPU, CUDA_ARCHS, Hardware
from schedules.products import attention, choose, product
from schedules.products.attention import AttentionConfig
from schedules.products.product import TILES, ProductConfig
from schedules.products.view import View
from schedules.products.workload import Added, ProductWorkload
from schedules.threads import emulator
from tests.support import kernels
from tests.support.products import Array, heads, operands, reference, seen
from tests.support.products import attention as attends

SM_80, SM_90A = (next(one for one in CUDA_ARCHS if one.name == n) for n in ("sm_80", "sm_90a"))
needs_compiler = pytest.mark.skipif(not emulator.available(), reason="needs a C++ compiler")


def mask(batch: int, count: int, rows: int, keys: int) -> Added:
    """One for all images."""
    return Added(View.of((count, rows, keys)).broadcast((batch, count, rows, keys)), FP32.name)


def packed(tokens: int, size: int, count: int = 2, **more: object) -> ProductWorkload:
    """Heads of one tensor (N, tokens, 3, heads, size), as after one product; so is the result."""
    y = View.of((2, tokens, count, size)).permuted((0, 2, 1, 3))
    return attends(*heads(2, tokens, count, size), y, **more)  # type: ignore[arg-type]


def images(side: int, size: int) -> ProductWorkload:
    """Heads of NCHW: tokens innermost, and the result transposed."""
    whole = View.of((1, 2, 3, size, side * side))
    query, key, value = (whole.taken(2, part).permuted((0, 1, 3, 2)) for part in range(3))
    y = View.of((1, 2, size, side * side)).permuted((0, 1, 3, 2))
    return attends(query, key, value, y)


def crossed(rows: int, keys: int, depth: int, columns: int) -> ProductWorkload:
    """Other queries than keys, and values of another size."""
    key, value = View.of((1, keys, depth)), View.of((1, keys, columns))
    return attends(View.of((1, rows, depth)), key, value, View.of((1, rows, columns)))


ATTENTION: dict[str, Callable[[], ProductWorkload]] = {
    "49 tokens": lambda: packed(49, 32),
    "a mask": lambda: packed(49, 16, mask=mask(2, 2, 49, 49)),
    "several steps": lambda: packed(100, 32),
    "images": lambda: images(8, 16),
    "sizes of 4": lambda: packed(40, 36),
    "a part of each row": lambda: attends(
        *(View.of((1, 2, 33, 24)).sliced(3, 0, 20) for _ in range(3)), View.of((1, 2, 33, 20))
    ),
    "sizes of 2": lambda: packed(33, 18),
    "odd sizes": lambda: packed(20, 21),
    "few keys": lambda: crossed(70, 9, 16, 24),
    "few queries": lambda: crossed(9, 150, 24, 40),
    "wide heads": lambda: crossed(20, 70, 128, 128),
    "a result in fp32": lambda: in_fp32(packed(49, 16)),
    "a scaled result": lambda: replace(packed(49, 16), scale=0.125),
}


def in_fp32(w: ProductWorkload) -> ProductWorkload:
    return replace(w, precision=replace(w.precision, result=FP32.name))


def matrices(m: int, n: int, k: int, **more: object) -> ProductWorkload:
    whole = View.of((3, 2, k, m)).permuted((0, 1, 3, 2))
    return ProductWorkload(whole, View.of((3, 2, k, n)), View.of((3, 2, m, n)), **more)  # type: ignore[arg-type]


def shared(m: int, n: int, k: int) -> ProductWorkload:
    """One matrix on the right for all, transposed, and a bias."""
    right = View.of((n, k)).permuted((1, 0)).broadcast((4, k, n))
    bias = Added(View.of((n,)).broadcast((4, m, n)), FP32.name)
    return ProductWorkload(View.of((4, m, k)), right, View.of((4, m, n)), 0.5, bias)


PRODUCTS: dict[str, Callable[[], ProductWorkload]] = {
    "transposed on the left": lambda: matrices(49, 40, 70),
    "a bias and a scale": lambda: shared(49, 33, 40),
    "odd": lambda: matrices(17, 9, 11),
    "long sums": lambda: in_fp32(matrices(16, 16, 300)),
    "added rows": lambda: replace(
        matrices(24, 24, 24), added=Added(View.of((3, 2, 24, 24)), "float16")
    ),
    "a transposed result": lambda: replace(
        matrices(24, 40, 24), y=View.of((3, 2, 40, 24)).permuted((0, 1, 3, 2))
    ),
    "every other row": lambda: replace(
        matrices(24, 40, 24), a=View.of((3, 2, 48, 24)).sliced(2, 1, 24, 2)
    ),
}
WORKLOADS = {**ATTENTION, **PRODUCTS}
#: Run in the default suite by the emulator, which compiles each.
USUAL = ("a mask", "several steps", "images", "a part of each row", "odd", "a bias and a scale")
in_turn = [one if one in USUAL else pytest.param(one, marks=pytest.mark.slow) for one in WORKLOADS]


def check(w: ProductWorkload, hardware: Hardware, config: choose.Config, seed: int = 0) -> None:
    given = operands(w, seed)
    result = "float32" if w.precision.result == FP32.name else "float16"
    y = np.full(w.y.size, np.nan, result)
    function = choose.ProductChoice(w, config, hardware).schedule()
    run = kernels.build_and_call if hardware.kind == "llvm" else emulator.run
    arrays = [*given.values(), y]
    for operand, array in zip(w.signature, arrays, strict=True):
        assert (str(array.dtype), array.shape) == (operand.dtype, operand.shape)
    got, want = seen(w.y, run(function, arrays, hardware)), reference(w, given)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("name", in_turn)
def test_on_llvm(name: str) -> None:
    check(WORKLOADS[name](), CPU, None)


@needs_compiler
@pytest.mark.parametrize("name", in_turn)
def test_the_chosen_kernel_in_the_emulator(name: str) -> None:
    w = WORKLOADS[name]()
    assert not choose.refusal(w, SM_80)
    check(w, SM_80, choose.choose(w, SM_80).config)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("keys", [16, 32, 48, 64])
@pytest.mark.parametrize(("warps", "stages"), [(1, 2), (2, 2), (4, 3)])
def test_other_configurations_of_attention(warps: int, keys: int, stages: int) -> None:
    w = packed(70, 24, mask=mask(2, 2, 70, 70))
    check(w, SM_90A, AttentionConfig(warps, keys, stages))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("config", [*TILES, ProductConfig(2, 1, 1, 1, 1, 2)], ids=str)
def test_other_configurations_of_products(config: ProductConfig) -> None:
    check(matrices(49, 40, 70), SM_90A, config)


def with_infinities(w: ProductWorkload) -> dict[str, Array]:
    """Operands of which a row of the mask is all -inf, and another begins with -inf."""
    given = operands(w)
    rows = given["mask"].reshape(2, 49, 49)
    rows[0, 3] = -np.inf
    rows[1, 5, :40] = -np.inf
    return given


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("hardware", [CPU, SM_80], ids=lambda one: one.name.split()[0])
def test_a_row_without_a_key_is_nan_or_zero_as_the_model_says(
    guarded: bool, hardware: Hardware
) -> None:
    if hardware.kind == "cuda" and not emulator.available():
        pytest.skip("needs a C++ compiler")
    w = replace(packed(49, 16, mask=mask(2, 2, 49, 49)), nan_to_zero=guarded)
    given = with_infinities(w)
    config = None if hardware.kind == "llvm" else AttentionConfig(1, 32)
    function = choose.ProductChoice(w, config, hardware).schedule()
    run = kernels.build_and_call if hardware.kind == "llvm" else emulator.run
    y = run(function, [*given.values(), np.zeros(w.y.size, "f2")], hardware)
    got, want = seen(w.y, y), reference(w, given)
    assert np.isnan(want).any() == (not guarded)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3 * np.nanmax(np.abs(want)))


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r'"cp.async.wait_group', '"// cp.async.wait_group'),
        (r"__syncthreads\(\);", ""),
    ],
)
def test_a_missing_wait_is_noticed(pattern: str, replacement: str) -> None:
    w = packed(100, 32, count=1)
    run = kernels.broken(pattern, replacement)
    given = operands(w)
    function = attention.kernel(w, AttentionConfig(2, 32))
    try:
        y = run(function, [*given.values(), np.zeros(w.y.size, "f2")], SM_80)
    except Exception:
        return
    wrong = ~np.isclose(seen(w.y, y), reference(w, given), rtol=2e-3, atol=1e-3)
    assert wrong.any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", WORKLOADS)
def test_on_this_gpu(name: str) -> None:
    w, hardware = WORKLOADS[name](), kernels.this_gpu()
    given = operands(w)
    y = np.full(w.y.size, np.nan, "f4" if w.precision.result == FP32.name else "f2")
    function = choose.choose(w, hardware).schedule()
    got = seen(w.y, kernels.build_and_call(function, [*given.values(), y], hardware))
    want = reference(w, given)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize(
    ("sizes", "config"),
    [
        # Blocks of 64 rows where there are many heads, of 16 where there are few.
        ((32, 196, 12, 32), AttentionConfig(4, 32)),
        ((1, 49, 2, 32), AttentionConfig(1, 64)),
        ((1, 9, 2, 32), AttentionConfig(1, 16)),
    ],
)
def test_what_is_chosen_for_attention(
    sizes: tuple[int, int, int, int], config: AttentionConfig
) -> None:
    batch, tokens, count, size = sizes
    y = View.of((batch, count, tokens, size))
    w = attends(*heads(batch, tokens, count, size), y)
    assert choose.choose(w, SM_90A).config == config


def test_what_is_chosen_for_products() -> None:
    large, small = matrices(512, 512, 512), matrices(17, 9, 11)
    config = choose.choose(large, SM_90A).config
    assert isinstance(config, ProductConfig)
    assert config.tile == (128, 128)
    assert choose.choose(small, SM_90A).config == ProductConfig(1, 2, 1, 1)
    plan = product.Plan(small, ProductConfig(1, 2, 1, 1))
    assert plan.padded_macs == 6 * 32 * 32 * 32


def test_what_is_refused() -> None:
    sm_75 = next(one for one in CUDA_ARCHS if one.name == "sm_75")
    assert choose.refusal(packed(49, 32), sm_75) == "sm_75 has no mma.sync of 16 terms"
    assert "128 columns" in choose.refusal(crossed(20, 20, 16, 200), SM_80)
    assert "half empty" in choose.refusal(matrices(1, 40, 40), CPU)
    assert "32-bit" in choose.refusal(matrices(40000, 40000, 40000), SM_80)
    assert not choose.refusal(packed(49, 32), CPU)


@pytest.mark.parametrize("wrong", [{"stages": 1}, {"keys": 24}, {"warps": 0}], ids=str)
def test_a_configuration_that_is_none(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="two stages"):
        AttentionConfig(**wrong)
    with pytest.raises(ValueError, match="at least"):
        ProductConfig(stages=1)


def test_shapes_that_do_not_suit_each_other_are_no_workload() -> None:
    with pytest.raises(ValueError, match="does not give"):
        ProductWorkload(View.of((2, 3)), View.of((4, 5)), View.of((2, 5)))
    with pytest.raises(ValueError, match="does not give"):
        ProductWorkload(View.of((2, 3)), View.of((3, 5)), View.of((2, 6)))
    with pytest.raises(ValueError, match="either a"):
        ProductWorkload(None, View.of((3, 5)), View.of((2, 5)))
    added = Added(View.of((5,)), FP32.name)
    with pytest.raises(ValueError, match="can't be added"):
        ProductWorkload(View.of((2, 3)), View.of((3, 5)), View.of((2, 5)), added=added)


def test_what_a_workload_moves_and_multiplies() -> None:
    w = packed(49, 16, mask=mask(2, 2, 49, 49))
    assert w.useful_macs == 2 * (2 * 2 * 49 * 49 * 16)
    assert w.moved_bytes == 2 * (4 * 2 * 49 * 2 * 16) + 4 * 2 * 49 * 49
    assert str(w) == "attention of 2x2 times 49x16 on 49 keys -> 16"
    assert str(matrices(17, 9, 11)) == "product of 3x2 times 17x11 by 11x9"

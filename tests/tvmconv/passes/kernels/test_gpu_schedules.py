"""Schedules for GPUs of what is no convolution: which rule takes what, and that nothing changes.

They run on this CPU, with loops where they have threads, against the function as it was before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from schedules.machine.hardware import CPU
from tests.support import kernels
from tvmconv.errors import ModelError
from tvmconv.passes import pipeline
from tvmconv.passes.kernels.default_schedules import (
    GPU_RULES,
    default_schedules,
    require_scheduled,
)
from tvmconv.passes.kernels.gpu_groups import GroupNorms
from tvmconv.passes.kernels.gpu_rows import Rows
from tvmconv.passes.kernels.gpu_schedules import (
    Elementwise,
    Samples,
    Totals,
    Transposition,
    Windows,
)
from tvmconv.passes.kernels.gpu_steps import block_size, enough_blocks

op, nn = relax.op, relax.op.nn
SM_90 = tvm.target.Target({"kind": "cuda", "arch": "sm_90"})
Build = Callable[..., relax.Expr]


def fused(build: Build, *inputs: tuple[tuple[int, ...], str]) -> tirx.PrimFunc:
    """The one function that a graph of operators becomes."""
    builder = relax.BlockBuilder()
    args = [
        relax.Var(f"x{i}", relax.TensorType(shape, dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    with builder.function("main", args):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(build(*args)))
        builder.emit_func_output(out)
    mod = builder.get()
    steps = (relax.transform.Normalize(), *pipeline.fuse_passes(), relax.transform.FuseTIR())
    for step in (*steps, relax.transform.DeadCodeElimination()):
        mod = step(mod)
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    return func.with_attr("global_symbol", "main")


def scheduled(func: tirx.PrimFunc) -> tuple[Any, str]:
    """The first rule that takes it, and what it makes of it."""
    with SM_90:
        for rule in GPU_RULES:
            sch = rule.apply(func, SM_90, False)
            if sch is not None:
                return rule, sch.mod["main"].script()
    raise AssertionError("no rule")


OURS = [rule for rule in GPU_RULES if type(rule).__module__.startswith("tvmconv")]
BINDING = r"T\.thread_binding\((T\.int64\(\d+\)|\d+), thread=\"%s\"\)"


def test_small_tensors_take_small_blocks_on_a_large_gpu() -> None:
    """Of a tensor that fills a small GPU with large blocks, but an H200 only with small ones."""
    orin = tvm.target.Target({"kind": "cuda", "arch": "sm_87"})
    blocks = [enough_blocks(one) for one in (SM_90, orin)]
    assert blocks == [2 * 132, 2 * 16]
    assert [block_size(1 << 13, enough) for enough in blocks] == [32, 256]


def backwards(script: str) -> str:
    """The same with the last block first."""
    found = re.search(rf"for (\w+) in {BINDING % 'blockIdx.x'}:", script)
    assert found, script
    last_first = rf"({found[2]} - {found[1]} - 1)"
    end = found.end()
    return script[:end] + re.sub(rf"\b{found[1]}\b", last_first, script[end:])


def check(func: tirx.PrimFunc, script: str, inputs: Any, out: tuple[tuple[int, ...], str]) -> None:
    """The scheduled function, its threads one after another, gives what the function gave,
    whichever block is first: each writes only what is its own."""
    loops = [re.sub(BINDING % r"\S+", r"range(\1)", one) for one in (script, backwards(script))]
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-2, 2, shape).astype(dtype) for shape, dtype in inputs]
    results = []
    for text in (func.script(), *loops):
        y = np.full(*out[:1], np.nan, out[1])
        compiled = kernels.compiled(tvm.script.from_source(text), CPU)["main"]
        results.append(kernels.call(compiled, [*arrays, y], CPU))
    assert np.isfinite(results[0]).all()
    # Sums may be done in another order; comparisons and copies are what they were.
    for one in results[1:]:
        rtol = 1e-3 if out[1] == "float16" else 1e-5
        np.testing.assert_allclose(one, results[0], rtol=rtol, atol=rtol / 10)


def max_pool(x: Any, **attributes: Any) -> Any:
    return nn.max_pool2d(x, layout="NHWC", **attributes)


def avg_pool(x: Any, **attributes: Any) -> Any:
    return nn.avg_pool2d(x, layout="NHWC", **attributes)


def layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
    return nn.layer_norm(x, gamma, beta, axes=[-1])


def group_norm(x: Any, gamma: Any, beta: Any, groups: int, pixels: Any = (1, 2)) -> Any:
    return nn.group_norm(x, gamma, beta, groups, -1, list(pixels))


def silu(x: Any) -> Any:
    return op.multiply(x, op.sigmoid(x))


def half(x: Any) -> Any:
    return op.astype(x, "float16")


def regions(x: Any, rois: Any, **how: Any) -> Any:
    """RoiAlign of regions whose corners lie in the image and around it."""
    return relax.op.vision.roi_align(x, rois, (3, 4), 3.7, **how)


F16, F32 = "float16", "float32"
POOL = {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1)}
SAME = {"pool_size": (3, 3), "strides": (1, 1), "padding": (1, 1, 1, 1)}

#: name: rule, bytes of the widest access, operators, inputs, output.
CASES: dict[str, tuple[type, int, Build, list[Any], Any]] = {
    "max pool": (
        # Narrower vectors, for more threads.
        Windows, 4, lambda x: max_pool(x, **POOL),
        [((2, 14, 15, 64), F16)], ((2, 7, 8, 64), F16),
    ),
    "max pool of many": (
        Windows, 16, lambda x: max_pool(x, **SAME),
        [((4, 48, 48, 256), F16)], ((4, 48, 48, 256), F16),
    ),
    "pool, then a cast": (
        Windows, 16, lambda x: half(max_pool(x, **POOL)),
        [((1, 28, 27, 64), F32)], ((1, 14, 14, 64), F16),
    ),
    "average pool": (
        Windows, 16, lambda x: avg_pool(x, **SAME, count_include_pad=False),
        [((1, 14, 13, 192), F32)], ((1, 14, 13, 192), F32),
    ),
    "channels that no vector divides": (
        Windows, 2, lambda x: max_pool(x, **POOL),
        [((1, 21, 23, 37), F16)], ((1, 11, 12, 37), F16),
    ),
    "global average pool": (
        Windows, 4, lambda x: op.mean(x, axis=[1, 2], keepdims=True),
        [((2, 7, 7, 96), F32)], ((2, 1, 1, 96), F32),
    ),
    "global average pool, many channels": (
        Windows, 16, lambda x: half(op.mean(x, axis=[1, 2], keepdims=True)),
        [((16, 7, 7, 512), F32)], ((16, 1, 1, 512), F16),
    ),
    "cast": (Elementwise, 16, half, [((2, 9, 7, 40), F32)], ((2, 9, 7, 40), F16)),
    "scale, shift, activation": (
        Elementwise, 16,
        lambda x, a, b: half(nn.relu(op.add(op.multiply(op.astype(x, F32), a), b))),
        [((2, 9, 7, 48), F16), ((1, 1, 1, 48), F32), ((1, 1, 1, 48), F32)],
        ((2, 9, 7, 48), F16),
    ),
    "concat": (
        Elementwise, 16, lambda x, y: op.concat([x, y], axis=3),
        [((1, 6, 7, 64), F16), ((1, 6, 7, 24), F16)], ((1, 6, 7, 88), F16),
    ),
    "concat at an odd place": (
        Elementwise, 2, lambda x, y: op.concat([x, y], axis=3),
        [((1, 6, 7, 61), F16), ((1, 6, 7, 27), F16)], ((1, 6, 7, 88), F16),
    ),
    "cast, concat, scale": (
        Elementwise, 16,
        lambda x, y, a: op.multiply(op.concat([op.astype(x, F32), y], axis=3), a),
        [((1, 6, 7, 32), F16), ((1, 6, 7, 56), F32), ((1, 1, 1, 88), F32)],
        ((1, 6, 7, 88), F32),
    ),
    "few elements": (Elementwise, 2, nn.relu, [((1, 5), F16)], ((1, 5), F16)),
    "one number": (
        Elementwise, 4, lambda x, y: op.maximum(op.multiply(x, y), relax.const(0.5, F32)),
        [((), F32), ((), F32)], ((), F32),
    ),
    "scaled by one number": (
        Elementwise, 16, lambda x, y: op.multiply(x, y),
        [((2, 9, 7, 40), F32), ((), F32)], ((2, 9, 7, 40), F32),
    ),
    "NCHW fp32 to NHWC fp16": (
        Transposition, 16, lambda x: half(op.permute_dims(x, (0, 2, 3, 1))),
        [((2, 3, 9, 24), F32)], ((2, 9, 24, 3), F16),
    ),
    "NHWC to NCHW": (
        Transposition, 16, lambda x: op.astype(op.permute_dims(x, (0, 3, 1, 2)), F32),
        [((2, 7, 56, 96), F16)], ((2, 96, 7, 56), F32),
    ),
    "NHWC to NCHW, odd sizes": (
        Transposition, 2, lambda x: op.permute_dims(x, (0, 3, 1, 2)),
        [((2, 5, 13, 33), F16)], ((2, 33, 5, 13), F16),
    ),
    # Tiles of 64 x 7 vectors, which 256 threads would share unevenly.
    "NHWC to NCHW, threads left over": (
        Transposition, 8, lambda x: op.astype(op.permute_dims(x, (0, 3, 1, 2)), F32),
        [((1, 14, 14, 256), F16)], ((1, 256, 14, 14), F32),
    ),
    "mean of all": (
        Totals, 2, lambda x: half(op.mean(x)), [((3, 40, 70), F32)], ((), F16),
    ),
    "largest of all": (
        Totals, 4, lambda x: op.max(x, keepdims=True), [((9, 11), F32)], ((1, 1), F32),
    ),
    "sum of a vector": (Totals, 4, op.sum, [((70,), F32)], ((), F32)),
    "layer norm": (
        Rows, 8, lambda x, a, b: half(layer_norm(x, a, b)),
        [((3, 5, 7, 96), F32), ((96,), F32), ((96,), F32)], ((3, 5, 7, 96), F16),
    ),
    "layer norm of fp16": (
        Rows, 16, lambda x, a, b: half(layer_norm(op.astype(x, F32), a, b)),
        [((2, 13, 768), F16), ((768,), F32), ((768,), F32)], ((2, 13, 768), F16),
    ),
    "layer norm of an image": (
        Rows, 16, lambda x, a, b: half(layer_norm(op.astype(x, F32), a, b)),
        [((2, 14, 14, 96), F16), ((96,), F32), ((96,), F32)], ((2, 14, 14, 96), F16),
    ),
    "layer norm of a prime number of rows": (
        Rows, 8, lambda x, a, b: half(layer_norm(op.astype(x, F32), a, b)),
        [((2, 1, 61, 20), F16), ((20,), F32), ((20,), F32)], ((2, 1, 61, 20), F16),
    ),
    "layer norm of channels that no vector divides": (
        Rows, 4, lambda x, a, b: layer_norm(x, a, b),
        [((9, 37), F32), ((37,), F32), ((37,), F32)], ((9, 37), F32),
    ),
    "layer norm of two axes": (
        Rows, 16, lambda x, a, b: nn.layer_norm(x, a, b, axes=[-2, -1]),
        [((6, 5, 8), F32), ((5, 8), F32), ((5, 8), F32)], ((6, 5, 8), F32),
    ),
    "layer norm of more than a warp keeps": (
        # A sum of so many has few digits.
        Rows, 16, lambda x, a, b: half(layer_norm(x, a, b)),
        [((3, 4400), F32), ((4400,), F32), ((4400,), F32)], ((3, 4400), F16),
    ),
    "layer norm of more than a block keeps": (
        Rows, 16, lambda x, a, b: half(layer_norm(x, a, b)),
        [((2, 70000), F32), ((70000,), F32), ((70000,), F32)], ((2, 70000), F16),
    ),
    "group norm of fp16, silu": (
        GroupNorms, 8, lambda x, a, b: half(silu(group_norm(op.astype(x, F32), a, b, 4))),
        [((2, 12, 10, 40), F16), ((40,), F32), ((40,), F32)], ((2, 12, 10, 40), F16),
    ),
    "group norm of one group of one image": (
        GroupNorms, 16, lambda x, a, b: half(group_norm(op.astype(x, F32), a, b, 1)),
        [((1, 8, 8, 24), F16), ((24,), F32), ((24,), F32)], ((1, 8, 8, 24), F16),
    ),
    "instance norm": (
        GroupNorms, 16, lambda x, a, b: group_norm(x, a, b, 32),
        [((2, 7, 7, 32), F32), ((32,), F32), ((32,), F32)], ((2, 7, 7, 32), F32),
    ),
    "group norm of groups that are shared out": (
        GroupNorms, 8, lambda x, a, b: half(group_norm(x, a, b, 10, [1])),
        [((3, 6, 20), F32), ((20,), F32), ((20,), F32)], ((3, 6, 20), F16),
    ),
    "softmax": (
        Rows, 8, lambda x: nn.softmax(x, axis=-1), [((2, 3, 9, 50), F32)], ((2, 3, 9, 50), F32),
    ),
    "softmax, then a cast": (
        Rows, 16, lambda x: half(nn.softmax(x, axis=-1)),
        [((2, 3, 9, 64), F32)], ((2, 3, 9, 64), F16),
    ),
    "logarithm of softmax": (
        Rows, 16, lambda x: nn.log_softmax(x, axis=-1), [((7, 100), F32)], ((7, 100), F32),
    ),
    "regions, sampled": (
        Samples, 4, lambda x, r: regions(x, r, sample_ratio=2),
        [((2, 3, 8, 9), F32), ((5, 5), F32)], ((5, 3, 3, 4), F32),
    ),
    "regions, sampled by their size": (
        Samples, 4, lambda x, r: regions(x, r, mode="max"),
        [((2, 3, 8, 9), F32), ((5, 5), F32)], ((5, 3, 3, 4), F32),
    ),
    "regions of fp16": (
        Samples, 2, lambda x, r: regions(x, r, layout="NHWC"),
        [((2, 8, 9, 3), F16), ((5, 5), F16)], ((5, 3, 4, 3), F16),
    ),
}  # fmt: skip


#: What takes LLVM long, beside others of the same rule.
LONG = (
    "regions, sampled by their size",
    "regions of fp16",
    "layer norm of fp16",
    "group norm of one group of one image",
    "group norm of groups that are shared out",
    "max pool of many",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in CASES],
)
def test_rule_changes_no_result(name: str) -> None:
    rule, width, build, inputs, out = CASES[name]
    func = fused(build, *inputs)
    before = func.script()
    taken, script = scheduled(func)
    assert func.script() == before
    assert type(taken) is rule, script
    lanes = [int(n) for n in re.findall(r"T\.vectorized\((?:T\.int64\()?(\d+)", script)]
    sizes = [np.dtype(dtype).itemsize for _, dtype in (*inputs, out)]
    assert max(lanes, default=1) * max(sizes) >= width
    assert all(one * min(sizes) <= 16 for one in lanes)
    check(func, script, inputs, out)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_rule_changes_no_result_on_a_gpu(name: str) -> None:
    _, _, build, inputs, out = CASES[name]
    func, here = fused(build, *inputs), kernels.this_gpu()
    with tvm.target.Target({"kind": "cuda", "arch": here.name}):
        mod = default_schedules("cuda")(tvm.IRModule({"main": func}))
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-2, 2, shape).astype(dtype) for shape, dtype in inputs]
    arrays.append(np.full(*out[:1], np.nan, out[1]))
    want, got = (
        kernels.build_and_call(one, arrays, hardware)
        for one, hardware in ((func, CPU), (mod, here))
    )
    rtol = 1e-3 if out[1] == "float16" else 1e-5
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        # More taps than one thread should sum.
        (lambda x: op.mean(x, axis=[1, 2]), [((1, 13, 13, 64), F32)]),
        # A row that is all there is.
        (lambda x: nn.layer_norm(x, x, x, axes=[0, 1]), [((5, 8), F32)]),
        # Not along the last axis.
        (lambda x: nn.softmax(x, axis=1), [((2, 100, 8), F32)]),
        # A sum of products of two tensors.
        (lambda x, y: op.matmul(x, y), [((8, 32), F32), ((32, 16), F32)]),
    ],
    ids=["large window", "norm of all", "softmax across", "matrix product"],
)
def test_others_are_left_to_the_rules_of_tvm(build: Build, inputs: Any) -> None:
    func = fused(build, *inputs)
    before = func.script()
    for rule in OURS:
        with SM_90:
            assert rule.apply(func, SM_90, False) is None
    assert func.script() == before


def test_several_outputs_are_left_to_the_rules_of_tvm() -> None:
    func = fused(lambda x: op.split(x, 2, axis=1), ((2, 8, 4), F32))
    with SM_90:
        assert all(rule.apply(func, SM_90, False) is None for rule in OURS)


def test_a_cpu_is_not_scheduled_for() -> None:
    func = fused(nn.relu, ((4, 8), F32))
    llvm = tvm.target.Target("llvm")
    assert all(rule.apply(func, llvm, False) is None for rule in OURS)


def test_a_function_that_no_rule_takes_is_refused() -> None:
    """TVM would run it on the CPU."""
    mod = tvm.IRModule({"main": fused(nn.relu, ((4, 8), F32))})
    with pytest.raises(ModelError, match="no schedule for a GPU of the kernel 'main'"):
        require_scheduled(mod)
    with SM_90:
        require_scheduled(default_schedules("cuda")(mod))

"""Readers of one cast each have their own, and no kernel is left that only casts."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

import tvmconv
from tests.support import graphs
from tests.support.models import Graph
from tvmconv.passes.graph import bindings, op_name
from tvmconv.passes.kernels.copy_casts import copy_casts

op = relax.op


def squeeze_and_excite() -> Graph:
    """A depthwise convolution whose result two operators read: a mean, and a product."""
    g = Graph([2, 16, 12, 10])
    one, two, three = (g.rng.standard_normal(shape).astype("f") for shape in (
        (16, 1, 3, 3), (16, 16, 1, 1), (24, 16, 1, 1)
    ))  # fmt: skip
    x = g.op("Conv", "input", g.constant(one / 3), pads=[1] * 4, group=16, name="depthwise")
    gate = g.op("Conv", g.op("GlobalAveragePool", x), g.constant(two / 4), name="gate")
    x = g.op("Mul", g.op("Sigmoid", gate), x)
    g.op("Conv", x, g.constant(three / 4), name="last")
    return g


def test_a_network_has_no_kernel_that_only_casts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_GATE", "0")  # so that the product has a kernel
    g = squeeze_and_excite()
    model = g.model("last")
    report = tvmconv.inspect(model, "cuda", arch="sm_90a", io_dtype="float16", io_layout="NHWC")
    kernels = report.plan.kernels
    assert len(kernels) == 2, kernels
    # The depthwise convolution's result is read and written in two bytes an element.
    size, channels = 2 * 16 * 12 * 10, 2 * 16
    assert [one.moved_bytes for one in kernels] == [
        2 * (size + channels),
        2 * (size + size + channels),
    ]


def test_a_network_is_right() -> None:
    graphs.became(squeeze_and_excite().model("last"))


def module(readers: int, *, outputs: bool = False, wide: bool = True) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float16" if wide else "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            cast = builder.emit(op.astype(x, "float32" if wide else "float16"))
            made = [builder.emit(op.multiply(cast, cast)) for _ in range(readers)]
            made += [builder.emit(op.nn.softmax(cast))]
            out = builder.emit_output(relax.Tuple([*made, *([cast] if outputs else [])]))
        builder.emit_func_output(out)
    return builder.get()


def casts(mod: tvm.IRModule) -> int:
    return sum(op_name(binding.value) == "relax.astype" for binding in bindings(mod))


def test_each_operand_has_its_own() -> None:
    """Those that no cast fuses into share one."""
    assert casts(copy_casts()(module(3))) == 1 + 2 * 3
    assert casts(copy_casts()(module(3, outputs=True))) == 1 + 2 * 3


def test_a_cast_to_fewer_bits_is_done_once() -> None:
    """Its readers would read twice the bytes."""
    assert casts(copy_casts()(module(3, wide=False))) == 1


def test_the_result_is_the_same() -> None:
    mod, target = module(2, outputs=True), tvm.target.Target("llvm")
    x = np.random.default_rng(0).standard_normal((2, 8)).astype("float16")
    results = []
    for one in (mod, copy_casts()(mod)):
        machine = relax.VirtualMachine(tvm.compile(one, target), tvm.cpu())
        results.append([y.numpy() for y in machine["main"](tvm.runtime.tensor(x))])
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(before, after)

"""Memory planning: who is needed when, the checker that trusts nobody, and networks that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import tvmconv
from tests.support.models import Graph, residual_net
from tests.support.thinned import thinned
from tvmconv.passes import pipeline
from tvmconv.passes.memory.check import check_memory
from tvmconv.passes.memory.plan_memory import MemoryUse, activations, measure, plan_memory
from tvmconv.reports.data.build import BuildReport

ROW = 256 * 4
BOUND = 5e-3


@I.ir_module
class Straight:
    """Every way in which one tensor goes by two names; a row is 1024 bytes.

    x -> a -> b; c = reshape(b); (d, e) = split(c); d += e in place; f = d + b; gives f and e.
    """

    @T.prim_func(s_tir=True, private=True)
    def twice(x: T.Buffer((256,), "float32"), y: T.Buffer((256,), "float32")):
        for i in range(256):
            with T.sblock("y"):
                v = T.axis.spatial(256, i)
                y[v] = x[v] * T.float32(2) + T.float32(1)

    @T.prim_func(s_tir=True, private=True)
    def split(
        x: T.Buffer((2, 128), "float32"),
        y: T.Buffer((128,), "float32"),
        z: T.Buffer((128,), "float32"),
    ):
        for i in range(128):
            with T.sblock("y"):
                v = T.axis.spatial(128, i)
                y[v] = x[0, v]
            with T.sblock("z"):
                w = T.axis.spatial(128, i)
                z[w] = x[1, w]

    @T.prim_func(s_tir=True, private=True)
    def add_to(x: T.Buffer((128,), "float32"), y: T.Buffer((128,), "float32")):
        for i in range(128):
            with T.sblock("x"):
                v = T.axis.spatial(128, i)
                x[v] = x[v] + y[v]

    @T.prim_func(s_tir=True, private=True)
    def add_first(
        x: T.Buffer((128,), "float32"),
        y: T.Buffer((256,), "float32"),
        z: T.Buffer((128,), "float32"),
    ):
        for i in range(128):
            with T.sblock("z"):
                v = T.axis.spatial(128, i)
                z[v] = x[v] + y[v]

    @R.function
    def main(x: R.Tensor((256,), "float32")):
        R.func_attr({"relax.force_pure": True})
        cls = Straight
        a = R.call_tir(cls.twice, (x,), R.Tensor((256,), "float32"))
        b = R.call_tir(cls.twice, (a,), R.Tensor((256,), "float32"))
        c = R.reshape(b, R.shape([2, 128]))
        both = R.call_tir(
            cls.split, (c,), [R.Tensor((128,), "float32"), R.Tensor((128,), "float32")]
        )
        d = both[0]
        e = both[1]
        d2 = R.call_tir_inplace(
            cls.add_to, (d, e), inplace_indices=[0], out_ty=R.Tensor((128,), "float32")
        )
        g = R.call_tir(cls.twice, (b,), R.Tensor((256,), "float32"))
        f = R.call_tir(cls.add_first, (d2, g), R.Tensor((128,), "float32"))
        return (f, e)


def unplanned(mod: tvm.IRModule) -> tvm.IRModule:
    """As the graph is when its memory is planned."""
    return relax.transform.CallTIRRewrite()(mod)


def by_name(mod: tvm.IRModule) -> dict[str, tuple[int, int, int]]:
    found = activations(mod, mod["main"])
    return {one.var.name: (one.life.first, one.life.last, one.life.size) for one in found}


def test_lives_through_every_alias() -> None:
    mod = unplanned(Straight)
    # Kernels: 0 a, 1 b, 2 split, 3 in place, 4 g, 5 f; 6 is the end.
    lives = list(by_name(mod).values())
    a, b, d, e, g, f = lives
    assert a == (0, 1, ROW)
    assert b == (1, 4, ROW)  # read as c by the split, and as b again
    assert d == (2, 5, ROW // 2)  # read as d2 after it was computed in place
    assert e == (2, 6, ROW // 2)  # an output
    assert g == (4, 5, ROW)
    assert f == (5, 6, ROW // 2)
    outputs = [one.is_output for one in activations(mod, mod["main"])]
    assert outputs == [False, False, False, True, False, True]


def test_bound_and_peak_by_hand() -> None:
    planned = plan_memory("llvm")(unplanned(Straight))
    use = measure(planned)
    # At g: b, d and g. Outside of the arena: e and f.
    assert use == MemoryUse(2 * ROW + ROW // 2, 2 * ROW + ROW // 2, output_bytes=ROW)
    assert measure(unplanned(Straight)) == MemoryUse(3 * ROW + ROW // 2, 2 * ROW + ROW // 2, ROW)


def executed(mod: tvm.IRModule, feed: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    mod = pipeline.run(mod, pipeline.machine_passes("llvm"), "test")
    built = relax.build(mod, "llvm", relax_pipeline=None)
    machine = relax.VirtualMachine(built, tvm.cpu())
    return [one.numpy() for one in machine["main"](tvm.runtime.tensor(feed))]


def test_an_arena_gives_what_separate_tensors_give() -> None:
    feed = np.random.default_rng(0).standard_normal(256).astype("float32")
    b = 4 * feed + 3
    f = b[:128] + b[128:] + 2 * b[:128] + 1
    for kind in ("llvm", "cuda"):  # the alignments differ
        results = executed(plan_memory(kind)(unplanned(Straight)), feed)
        np.testing.assert_allclose(results[0], f, rtol=1e-6)
        np.testing.assert_allclose(results[1], b[128:], rtol=1e-6)


def test_outputs_of_one_run_survive_the_next() -> None:
    exe = tvmconv.build(residual_net(1), target="llvm")
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(2))
    kept = exe(first)
    copy = kept.copy()
    assert not np.allclose(exe(second), copy)
    np.testing.assert_array_equal(kept, copy)


# ---------------------------------------------------------------- the checker


def plan_by_hand(
    offsets: tuple[int, int, int] = (0, 1024, 2048), size: int = 3072, output: bool = False
) -> tvm.IRModule:
    """a = twice(x), b = twice(a), c = twice(b), out = twice(c), at such offsets of an arena."""
    builder = relax.BlockBuilder()
    twice = builder.add_func(Straight["twice"], "twice")
    x = relax.Var("x", relax.TensorType((256,), "float32"))
    memory = relax.op.memory
    shape = relax.ShapeExpr([256])
    with builder.function("main", [x], attrs={"relax.force_pure": True}):
        storage = memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
        storage = builder.emit(storage, "arena")
        last = x
        for name, offset in zip("abc", offsets, strict=True):
            new = builder.emit(memory.alloc_tensor(storage, offset, shape, "float32"), name)
            builder.emit(relax.Call(twice, [last, new]))
            last = new
        if not output:
            out = builder.emit(relax.op.builtin.alloc_tensor(shape, "float32", 0, "global"), "out")
            builder.emit(relax.Call(twice, [last, out]))
            last = out
        builder.emit_func_output(last)
    return builder.get()


@pytest.mark.parametrize("offsets", [(0, 1024, 2048), (0, 1024, 0), (1024, 0, 1024), (0, 2048, 64)])
def test_right_plans_pass(offsets: tuple[int, int, int]) -> None:
    mod = plan_by_hand(offsets)
    check_memory(mod, mod["main"], 64)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"offsets": (0, 0, 1024)}, "a is read after b was written over it"),
        ({"offsets": (0, 960, 1984)}, "a is read after b was written over it"),
        ({"offsets": (0, 1024, 1984)}, "b is read after c was written over it"),
        ({"offsets": (0, 1056, 0)}, "not aligned"),
        ({"offsets": (0, 1024, 2112)}, "past its end"),
        ({"offsets": (0, 1024, -64)}, "past its end"),
        ({"size": 2048}, "past its end"),
        ({"output": True}, "output c is in shared memory"),
    ],
)
def test_wrong_plans_are_caught(plan: dict[str, Any], says: str) -> None:
    mod = plan_by_hand(**plan)
    with pytest.raises(AssertionError, match=says):
        check_memory(mod, mod["main"], 64)


def test_a_wrong_placement_stops_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tvmconv.passes.memory.arena.place", lambda buffers, alignment: (0,) * len(buffers)
    )
    with pytest.raises(AssertionError, match="was written over it"):
        plan_memory("llvm")(unplanned(Straight))


# ---------------------------------------------------------------- networks


def check(model: onnx.ModelProto) -> BuildReport:
    exe = tvmconv.build(model, target="llvm")
    report = tvmconv.compare(model, exe)
    assert report.passed(BOUND), str(report)
    assert exe.report.activation_bound_bytes > 0
    assert exe.report.peak_activation_bytes >= exe.report.activation_bound_bytes
    return exe.report


def test_tricky_aliases() -> None:
    """Reshapes of what is read again, a residual past a concatenation, an output in the middle."""
    g = Graph([2, 3, 8, 8])
    stem = g.op("Relu", g.conv("input", 3, 16))
    left, right = g.conv(stem, 16, 16), g.op("MaxPool", stem, kernel_shape=[1, 1])
    flat = g.op("Flatten", left)
    folded = g.op("Reshape", flat, g.constant(np.array([2, 16, 8, 8])))
    both = g.op("Concat", folded, right, stem, axis=1)
    mixed = g.op("Add", g.conv(both, 48, 16), stem)
    seen = g.op("Sigmoid", g.op("Reshape", mixed, g.constant(np.array([2, -1]))))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", g.op("Add", mixed, left)))
    check(g.model(pooled, seen, flat, left))


@pytest.mark.parametrize("seed", thinned(range(4), 4))
def test_random_graphs(seed: int) -> None:
    """Any two tensors of one shape are added, joined and convolved again; some are outputs."""
    g = Graph([1, 16, 6, 6], seed)
    made = [g.conv("input", 16, 16)]
    for step in range(14):
        a, b = (made[g.rng.integers(max(0, len(made) - 6), len(made))] for _ in range(2))
        kind = ("add", "concat", "conv", "reshape", "relu")[g.rng.integers(5)]
        if kind == "add":
            new = g.op("Tanh", g.op("Add", a, b))
        elif kind == "concat":
            new = g.conv(g.op("Concat", a, b, axis=1), 32, 16, 1)
        elif kind == "conv":
            new = g.op("Tanh", g.conv(a, 16, 16))
        elif kind == "reshape":
            turned = g.op("Reshape", a, g.constant(np.array([1, 16, 36]), f"flat_{step}"))
            new = g.op("Reshape", turned, g.constant(np.array([1, 16, 6, 6]), f"full_{step}"))
        else:
            new = g.op("Relu", a)
        made.append(new)
    check(g.model(made[-1], made[7]))


def test_report_tells_both() -> None:
    report = tvmconv.build(residual_net(8, size=56), target="llvm").report
    ratio = report.peak_activation_bytes / report.activation_bound_bytes
    assert 1 <= ratio < 1.01
    live = f"{report.activation_bound_bytes / 2**20:.1f}"
    assert f"activations {live} MiB, 1.00 times the {live} MiB that are live" in str(report)
    assert BuildReport.from_json(report.to_json()) == report

"""Casts around a pool become part of its kernel."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax, tirx
from tvm.script import relax as R

from tvmconv.passes.kernels.fuse_casts import fuse_casts
from tvmconv.passes.pipeline import plan_memory_passes


@tvm.script.ir_module
class Between:
    """An average pool between two convolutions, and a global one after it."""

    @R.function
    def main(x: R.Tensor((2, 14, 14, 64), "float16")):  # type: ignore[no-untyped-def]
        with R.dataflow():
            wide = R.astype(x, "float32")
            pooled = R.nn.avg_pool2d(wide, [3, 3], [1, 1], [1, 1, 1, 1], layout="NHWC")
            half = R.astype(pooled, "float16")
            wider = R.astype(half, "float32")
            out = R.mean(wider, axis=[1, 2])
            R.output(out)
        return out


def kernels(mod: tvm.IRModule) -> list[str]:
    return sorted(gv.name_hint for gv, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


def test_a_cast_before_and_one_after_are_one_kernel_with_the_pool() -> None:
    mod: tvm.IRModule = Between
    steps = plan_memory_passes("llvm")
    fused = next(i for i, one in enumerate(steps) if one.info.name == "FuseTIR")
    with tvm.target.Target("llvm"):
        for step in steps[: fused + 1]:
            mod = step(mod)
    assert len(kernels(mod)) == 2, kernels(mod)
    assert all("astype" in name or "cast" in name for name in kernels(mod))
    shapes = [str(f.script()) for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert all('"float16"' in text.split("def main")[1].split("\n")[0] for text in shapes)


@pytest.mark.parametrize("read_twice", [False, True])
def test_a_value_that_others_read_is_kept(read_twice: bool) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 8, 8, 16), "float16"))
    with builder.function("main", [x]):
        with builder.dataflow():
            wide = builder.emit(relax.op.astype(x, "float32"))
            pooled = builder.emit(relax.op.nn.max_pool2d(wide, (2, 2), (2, 2), layout="NHWC"))
            out = pooled
            if read_twice:
                total = builder.emit(relax.op.sum(wide))
                out = builder.emit(relax.op.add(pooled, total))
            output = builder.emit_output(out)
        builder.emit_func_output(output)
    mod = fuse_casts()(builder.get())
    composites = [gv for gv, f in mod.functions_items() if gv.name_hint != "main"]
    assert len(composites) == (0 if read_twice else 1)


@pytest.mark.parametrize(("others", "fused"), [(False, "silu"), (True, ""), (False, "relu")])
def test_an_activation_is_fused_with_the_norm_that_it_alone_reads(others: bool, fused: str) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8, 8, 16), "float32"))
    factors = [relax.Var(name, relax.TensorType((16,), "float32")) for name in ("scale", "shift")]
    with builder.function("main", [x, *factors]):
        with builder.dataflow():
            norm = builder.emit(relax.op.nn.group_norm(x, *factors, 4, 3, [1, 2]))
            if fused == "relu":
                y = builder.emit(relax.op.nn.relu(norm))
            else:
                gate = builder.emit(relax.op.sigmoid(norm))
                y = builder.emit(relax.op.multiply(norm, gate))
            if others:
                y = builder.emit(relax.op.add(y, builder.emit(relax.op.exp(norm))))
            output = builder.emit_output(y)
        builder.emit_func_output(output)
    mod = fuse_casts()(builder.get())
    assert len(mod.functions_items()) == 1 + bool(fused)

"""An output that is a reshape is a view of the tensor before it, not a kernel that copies."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

import tvmconv
from tests.support.models import Graph, random_feed
from tvmconv.passes.pipeline import fuse_passes, kernel_passes


def reshaped(outputs: int) -> tvm.IRModule:
    """``reshape(exp(x))``, alone or beside ``exp(x)``."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.exp(x))
            z = builder.emit(relax.op.reshape(y, (2, 12)))
            output = builder.emit_output(z if outputs == 1 else relax.Tuple([z, y]))
        builder.emit_func_output(output)
    return builder.get()


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_reshaped_output_is_no_kernel(outputs: int) -> None:
    mod = reshaped(outputs)
    with tvm.target.Target("llvm"):
        for step in (*fuse_passes(), *kernel_passes()):
            mod = step(mod)
    kernels = [var.name_hint for var, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert len(kernels) == 1, kernels
    assert len(mod["main"].ret_ty.fields) == outputs


def test_it_holds_what_it_did() -> None:
    g = Graph([2, 3, 4, 5])
    model = g.model(g.op("Flatten", g.op("Exp", "input"), name="flat"))
    feed = random_feed([2, 3, 4, 5])
    y = tvmconv.build(model, target="llvm").run(feed)["flat"]
    np.testing.assert_allclose(y, np.exp(feed["input"]).reshape(2, 60), rtol=1e-5)

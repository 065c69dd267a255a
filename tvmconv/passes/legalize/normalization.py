"""LayerNormalization as loops, its variance as the mean square of what is left of the mean.

    mean = sum(x) / n;  variance = sum((x - mean)^2) / n
    y = (x - mean) / sqrt(variance + epsilon) * gamma + beta        all of it in fp32

TVM's are of one pass, mean(x^2) - mean(x)^2, which loses all digits where the mean is large beside
the deviation. A GPU keeps the elements in registers between the passes (`gpu_rows`).

https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, te, tirx


def _layer_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    rank = call.args[0].ty.ndim
    axes = sorted(int(axis) % rank for axis in call.attrs.axes)
    epsilon = float(call.attrs.epsilon)
    x, gamma, beta = call.args

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        rows = [size for i, size in enumerate(x.shape) if i not in axes]
        count = math.prod(int(x.shape[i]) for i in axes)
        inverse = tirx.const(1 / count, "float32")

        def reduced(name: str, term: Callable[..., Any]) -> te.Tensor:
            taps = {i: te.reduce_axis((0, x.shape[i]), f"k{i}") for i in axes}

            def element(*row: Any) -> Any:
                place = iter(row)
                at = [taps[i].var if i in taps else next(place) for i in range(rank)]
                return te.sum(term(at, row), axis=list(taps.values()))

            return te.compute(rows, element, name=name)

        def wide(at: Sequence[Any]) -> Any:
            return x(*at).astype("float32")

        total = reduced("total", lambda at, row: wide(at))

        def centred(at: Sequence[Any], row: Sequence[Any]) -> Any:
            return wide(at) - total(*row) * inverse

        squares = reduced("squares", lambda at, row: centred(at, row) * centred(at, row))

        def element(*at: Any) -> Any:
            row = [one for i, one in enumerate(at) if i not in axes]
            inside = [at[i] for i in axes]
            deviation = te.rsqrt(squares(*row) * inverse + tirx.const(epsilon, "float32"))
            scaled = centred(at, row) * deviation * gamma(*inside).astype("float32")
            return (scaled + beta(*inside).astype("float32")).astype(x.dtype)

        return te.compute(x.shape, element, name="layer_norm")

    return builder.call_te(compute, x, gamma, beta, primfunc_name_hint="layer_norm")


#: By operator.
NORMS: Mapping[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    "relax.nn.layer_norm": _layer_norm,
}

"""tvmconv as a backend of ONNX, for onnx's own test suite.

BackendTest(TvmconvBackend, __name__) makes the tests. They run by `tvmconv.build` for ``llvm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep

from tvmconv.compiler.build import build
from tvmconv.errors import FeedError, TargetError
from tvmconv.onnx.model import inputs, open_dimensions, read
from tvmconv.onnx.supported import value_inputs
from tvmconv.runtime.executable import Executable


class TvmconvRep(BackendRep):
    """A prepared model.

    It is built at once if all shapes are known. Else the first run builds it: it fixes open
    dimensions, and freezes inputs whose values decide shapes (`supported.VALUES`); a run with
    others builds anew. If that would freeze every input, none is frozen, since constant folding by
    onnxruntime would then compute the result.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._inputs = inputs(model)
        decisive = value_inputs(model)
        frozen = [value.name for value in self._inputs if value.name in decisive]
        self._frozen = frozen if len(frozen) < len(self._inputs) else []
        self._built: dict[tuple[Any, ...], Executable] = {}
        if not self._frozen and not any(map(open_dimensions, self._inputs)):
            self._executable({}, {})

    def run(self, inputs: Sequence[NDArray[Any]], **_: Any) -> tuple[NDArray[Any], ...]:
        """Every output, in the model's order. Raises a `TvmconvError`."""
        names = [value.name for value in self._inputs]
        if len(inputs) != len(names):
            raise FeedError(f"got {len(inputs)} inputs, the network's are {names}")
        feeds = dict(zip(names, map(np.asarray, inputs), strict=True))
        frozen = {name: feeds.pop(name) for name in self._frozen}
        opened = {
            value.name: feeds[value.name].shape
            for value in self._inputs
            if value.name in feeds and open_dimensions(value)
        }
        outputs = self._executable(frozen, opened).run(feeds)
        return tuple(outputs[value.name] for value in self._model.graph.output)

    def _executable(
        self, frozen: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]
    ) -> Executable:
        values = tuple((x.dtype.str, x.shape, x.tobytes()) for x in frozen.values())
        key = (values, *shapes.items())
        if key not in self._built:
            model = _with_values(self._model, frozen)
            self._built[key] = build(model, target="llvm", shapes=shapes, fallback="none")
        return self._built[key]


class TvmconvBackend(Backend):
    """`onnx.backend.base.Backend` on `tvmconv.build`, for the CPU."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> TvmconvRep:
        """Reads a model, and builds it if its inputs are not needed. Raises a `TvmconvError`."""
        if not cls.supports_device(device):
            raise TargetError(f"this backend runs on the CPU, not on {device!r}")
        return TvmconvRep(read(model))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU."""
        return device.partition(":")[0] == "CPU"


def _with_values(model: onnx.ModelProto, values: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """Turns some inputs of a model into initializers."""
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    kept = [value for value in model.graph.input if value.name not in values]
    del frozen.graph.input[:]
    frozen.graph.input.extend(kept)
    frozen.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
    return frozen

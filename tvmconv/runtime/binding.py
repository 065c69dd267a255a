"""A network whose inputs and outputs keep their memory, so that a run is cheap to start."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm

from tvmconv.runtime.cuda import capture, current_stream
from tvmconv.specs import TensorSpec


@dataclass(frozen=True, eq=False)
class Binding:
    """Made by `Executable.bind`.

    `inputs` and `outputs` are tensors by name, with the shapes and dtypes of `Executable.inputs`
    and `outputs`. They support DLPack: `torch.from_dlpack(binding.inputs["x"])` is the same memory,
    and `copyfrom` takes a NumPy array. They never move; every run reads the inputs and overwrites
    the outputs. Several threads may run a binding; the caller orders writes to its inputs.
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    _replay: Callable[[int | None], None] = field(repr=False)
    #: Holds the kernels and weights of the network, which a CUDA graph does not.
    _network: Any = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, stream: int | None = None) -> None:
        """Runs the network on the values that are in `inputs` now.

        On a GPU it is enqueued as one CUDA graph and may still run when this returns. stream: a
        raw handle, such as `torch.cuda.Stream.cuda_stream`; by default CUDA's default stream,
        which is PyTorch's as well and for which an output's `numpy()` waits. On a CPU the run is
        over when this returns.
        """
        with self._lock:
            self._replay(stream)


def bind(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    run: Callable[[Sequence[Any]], Any],
    device: Any,
    feeds: Sequence[Any] | None,
) -> Binding:
    """Returns a binding of `run`, a function of tensors on the device.

    run: returns all tensors that it writes, the `outputs` first. feeds: the first values of the
    inputs, which are zeros by default.
    """
    tensors = [tvm.runtime.tensor(np.zeros(one.shape, one.dtype), device) for one in inputs]
    for tensor, feed in zip(tensors, feeds or (), strict=bool(feeds)):
        tensor.copyfrom(feed)
    made, replay = (_on_cpu if device == tvm.cpu() else _captured)(run, tensors, device)
    return Binding(
        {spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)},
        {spec.name: made[i] for i, spec in enumerate(outputs)},
        replay,
        run,
    )


def _on_cpu(
    run: Callable[[Sequence[Any]], Any], tensors: Sequence[Any], _: Any
) -> tuple[Sequence[Any], Callable[[int | None], None]]:
    made = _as_list(run(tensors))

    def replay(_: int | None) -> None:
        for kept, one in zip(made, _as_list(run(tensors)), strict=True):
            kept.copyfrom(one)

    return made, replay


def _captured(
    run: Callable[[Sequence[Any]], Any], tensors: Sequence[Any], device: Any
) -> tuple[Sequence[Any], Callable[[int | None], None]]:
    # Loads the kernels, and leaves memory in TVM's pool that the capture then takes: neither is
    # work of a stream.
    run(tensors)
    device.sync()
    graph, (_, made) = capture(device, lambda: (tensors, _as_list(run(tensors))))
    # TVM's pool hands on memory at once, which is safe on one stream; a replay may be on another.
    device.sync()

    def replay(stream: int | None) -> None:
        if stream is None:
            graph.launch(current_stream(device))
        else:
            graph.launch(ctypes.c_void_p(stream))

    return made, replay


def _as_list(result: Any) -> list[Any]:
    return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)

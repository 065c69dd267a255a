"""Many launches of one kernel as one CUDA graph, by PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

#: Launches in one graph, and before its capture.
LAUNCHES, WARM_UPS = 20, 3


def captured(call: Callable[[], object]) -> Any:
    """Returns a ``torch.cuda.CUDAGraph`` of `LAUNCHES` calls, by PyTorch or TVM.

    Needs torch and a GPU, and of TVM only its FFI.
    """
    torch, tvm_ffi = (importlib.import_module(name) for name in ("torch", "tvm_ffi"))
    for _ in range(WARM_UPS):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with tvm_ffi.use_torch_stream(torch.cuda.graph(graph)):
        for _ in range(LAUNCHES):
            call()
    return graph

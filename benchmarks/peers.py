"""Times of other programs on the same network, taken with the stopwatches that time ours.

onnxruntime's idle worker threads spin for a while and would take cores from the next measurement.
To forbid that would slow onnxruntime down. So its session lives only while it is timed, and ends
with its threads before anything else is timed: keep it so.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray

from tvmconv.reports.collect.latency import Effort, cuda_time, host_time, warm_up
from tvmconv.reports.data.latency import Timing

#: Networks of the zoo that torchvision has under the same name.
TORCHVISION = ("resnet18", "resnet50", "mobilenet_v2")


def onnxruntime_cpu(
    model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], threads: int, effort: Effort
) -> Timing:
    """Times onnxruntime in fp32 on the CPU, with default options and ``threads`` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns about the open batch size
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run() -> None:
        session.run(None, feeds)

    warm_up(run, effort)
    return host_time(run, effort)


def has_torch() -> bool:
    """Returns True if PyTorch and torchvision are installed, and PyTorch can use a GPU."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return False
    return bool(importlib.import_module("torch").cuda.is_available())


def torch_cuda_graph(name: str, batch: int, effort: Effort) -> Timing:
    """Times PyTorch in fp16, channels last, batch norms folded, as one CUDA graph.

    ``name`` is one of `TORCHVISION`. Weights and input (3x224x224 pixels) are random: this gives
    times, not answers. Requires `has_torch`.
    """
    torch = importlib.import_module("torch")
    fuse = importlib.import_module("torch.fx.experimental.optimization").fuse
    network, x = _torch_network(name, batch, fuse)
    with torch.inference_mode():
        side = torch.cuda.Stream()  # lazy set-up has to be done before the capture
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                network(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(x)
    return _torch_time(graph.replay, effort)


def torch_compile(name: str, batch: int, effort: Effort) -> Timing:
    """Times the same network by ``torch.compile``: pointwise kernels fused, CUDA graphs.

    Mode reduce-overhead with frozen weights. Compiling takes some ten seconds.
    """
    torch = importlib.import_module("torch")
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.freezing = True
    torch._dynamo.reset()
    network, x = _torch_network(name, batch, lambda module: module)
    compiled = torch.compile(network, mode="reduce-overhead")
    with torch.inference_mode():
        return _torch_time(lambda: compiled(x), effort)


def torch_int_mm(effort: Effort, side: int = 8192) -> dict[str, float]:
    """Times ``torch._int_mm`` of two int8 matrices: a yardstick of the GPU's rate in integers.

    Returns its side, milliseconds, and TOP/s = 2 side^3 / time. Requires `has_torch`.
    """
    torch = importlib.import_module("torch")
    a, b = (
        torch.randint(-128, 128, (side, side), device="cuda", dtype=torch.int8) for _ in range(2)
    )
    # cuBLASLt multiplies int8 only where the second matrix is stored by columns.
    timing = _torch_time(lambda: torch._int_mm(a, b.t()), effort)
    return {"side": side, "ms": timing.median_ms, "tops": 2e-9 * side**3 / timing.median_ms}


def _torch_network(name: str, batch: int, fuse: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Returns the network and its input on the GPU."""
    torch, torchvision = (importlib.import_module(m) for m in ("torch", "torchvision"))
    torch.backends.cudnn.benchmark = True
    network = fuse(getattr(torchvision.models, name)(weights=None).eval())
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.half)
    channels_last = torch.channels_last
    network = network.cuda().half().to(memory_format=channels_last)
    return network, x.to(memory_format=channels_last)


def _torch_time(enqueue: Callable[[], object], effort: Effort) -> Timing:
    torch = importlib.import_module("torch")

    def run() -> None:
        enqueue()
        torch.cuda.synchronize()

    warm_up(run, effort)
    # PyTorch's current stream is the default one, as TVM's is, so the same events time both.
    compute, _ = cuda_time(enqueue, tvm.cuda(0), effort)
    return compute

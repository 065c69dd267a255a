"""Single convolutions on a GPU: every family that matches, checked, timed, beside cuDNN.

    python -m benchmarks.convs --batches 1,16,128

Ours has bias and ReLU fused and writes fp16; cuDNN, through PyTorch, has neither. Each is captured
20 times in one CUDA graph, so that starting kernels costs nothing. Needs torch and a GPU.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tvm
import tvm_ffi
import typer

from benchmarks import machine
from schedules.activations import Activation
from schedules.choose import FAMILIES
from schedules.family import Family, Match
from schedules.gemm import pack_channels
from schedules.workload import PACKED, ConvWorkload, Epilogue, Layout
from tvmconv import pipeline, toolchain
from tvmconv.cli_io import run_or_tell
from tvmconv.errors import TargetError, TvmconvError
from tvmconv.latency import Effort, cuda_time
from tvmconv.passes.lower_kernels import KERNELS
from tvmconv.tables import table

#: name: C, H and W, K, R and S, stride, padding.
SHAPES = {
    "tutorial": (256, 14, 512, 3, 1, 1),
    "resnet18.stem": (3, 224, 64, 7, 2, 3),
    "resnet18.layer1": (64, 56, 64, 3, 1, 1),
    "resnet18.layer2.down": (64, 56, 128, 3, 2, 1),
    "resnet18.layer2": (128, 28, 128, 3, 1, 1),
    "resnet18.layer3": (256, 14, 256, 3, 1, 1),
    "resnet18.layer4": (512, 7, 512, 3, 1, 1),
    "resnet50.layer1.expand": (64, 56, 256, 1, 1, 0),
    "resnet50.layer3.reduce": (1024, 14, 256, 1, 1, 0),
}
#: Relative l2 error that is still timed: fp16 outputs round by at most 2**-11.
BOUND = 1e-3
#: Launches in one graph.
LAUNCHES = 20


@dataclass(frozen=True)
class Row:
    """One convolution through one family, or through cuDNN."""

    name: str
    batch: int
    family: str
    config: str
    relative_l2: float
    us: float
    tflops: float


def workload(name: str, batch: int, layout: Layout) -> ConvWorkload:
    """The convolution of `SHAPES`, bias and ReLU in its epilogue."""
    c, h, k, r, stride, pad = SHAPES[name]
    epilogue = Epilogue(bias=True, activation=Activation("relu"))
    w = ConvWorkload(batch, h, h, c, k, r, r, (stride, stride), (pad,) * 4, epilogue=epilogue)
    in_layout = layout if c % max(layout.c, 1) == 0 else w.in_layout
    return replace(w, in_layout=in_layout, out_layout=layout)


def measure(name: str, batch: int, arch: str, effort: Effort) -> list[Row]:
    """cuDNN, then every tensorized family. Raises TvmconvError for a result past `BOUND`."""
    torch = importlib.import_module("torch")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    c, h, k, r, stride, pad = SHAPES[name]
    draw = np.random.default_rng(0).standard_normal
    x = draw((batch, h, h, c), np.float32).astype(np.float16)
    weight = (draw((k, c, r, r)) / np.sqrt(c * r * r)).astype(np.float16)
    bias = draw(k).astype(np.float32)
    x_gpu, weight_gpu = (torch.from_numpy(array).cuda() for array in (x, weight))
    conv = torch.nn.functional.conv2d
    image = x_gpu.permute(0, 3, 1, 2)
    arguments = (image.float(), weight_gpu.float(), torch.from_numpy(bias).cuda())
    expected = torch.relu(conv(*arguments, stride=stride, padding=pad)).permute(0, 2, 3, 1)
    last = weight_gpu.to(memory_format=torch.channels_last)
    us = _graph_us(lambda: conv(image, last, stride=stride, padding=pad), effort)
    flops = 2.0 * workload(name, batch, PACKED).useful_macs
    rows = [Row(name, batch, "cuDNN", "no epilogue", 0.0, us, flops / us / 1e6)]
    for family in FAMILIES:
        w = workload(name, batch, PACKED if family.name == "wmma_packed" else Layout())
        match = family.match(w, toolchain.cuda_arch(arch))
        if not isinstance(match, Match) or not family.tensorized or batch % w.out_layout.n:
            continue
        call, result = _kernel(family, w, match.config, arch, x, weight, bias)
        call()
        got = torch.from_numpy(result()).cuda()
        error = float((got - expected).norm() / expected.norm())
        if not error <= BOUND:
            raise TvmconvError(f"{name} at batch {batch} through {family.name}: error {error:.1e}")
        us = _graph_us(call, effort)
        config = str(match.config)
        rows.append(Row(name, batch, family.name, config, error, us, flops / us / 1e6))
    return rows


def _kernel(
    family: Family, w: ConvWorkload, config: Any, arch: str, x: Any, weight: Any, bias: Any
) -> tuple[Callable[[], object], Callable[[], Any]]:
    """A call of the compiled kernel, and what it has written as (N, P, Q, K) fp32."""
    toolchain.prepare_cuda(arch)
    target = pipeline.tvm_target("cuda", arch)
    func = family.schedule(w, config, toolchain.cuda_arch(arch))
    with target, tvm.transform.PassContext(opt_level=3, config=pipeline.LOWERING):
        built = tvm.compile(func, target=target, tir_pipeline=KERNELS)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "kernel.so"
        built.export_library(str(path))
        toolchain.require_cubin(path, arch)
        function = tvm.runtime.load_module(str(path))["main"]
    laid = np.zeros(w.in_shape, np.float16)
    laid[w.in_layout.index(*np.indices(x.shape, sparse=True))] = x
    # Poisoned, so that what is not written shows.
    y = np.full(w.out_shape, np.nan, np.float16)
    arrays = [laid, family.pack(w, config, weight), pack_channels(w, bias), y]
    tensors = [tvm.runtime.tensor(array, tvm.cuda(0)) for array in arrays]

    def result() -> Any:
        at = w.out_layout.index(*np.indices((w.n, w.p, w.q, w.k), sparse=True))
        return tensors[-1].numpy()[at].astype(np.float32)

    return lambda: function(*tensors), result


def _graph_us(call: Callable[[], object], effort: Effort) -> float:
    """Median time of one launch, in microseconds."""
    torch = importlib.import_module("torch")
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with tvm_ffi.use_torch_stream(torch.cuda.graph(graph)):
        for _ in range(LAUNCHES):
            call()
    compute, _ = cuda_time(graph.replay, tvm.cuda(0), effort)
    return compute.median_ms * 1e3 / LAUNCHES


def main(
    convs: Annotated[str, typer.Option(help="names, with commas")] = ",".join(SHAPES),
    batches: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1,16,128,256",
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    min_seconds: Annotated[float, typer.Option(help="to time each, at least")] = 0.1,
    commit: Annotated[str | None, typer.Option(help="where this is no git checkout")] = None,
) -> None:
    """Check and time single convolutions on this machine's GPU."""
    arch = toolchain.detect_arch()
    if arch is None:
        raise TargetError("there is no NVIDIA GPU here", hint="run this on a machine with one")
    effort = Effort(min_seconds=min_seconds)
    rows = []
    for name in convs.split(","):
        for batch in map(int, batches.split(",")):
            rows += measure(name, batch, arch, effort)
            print(f"{name} at batch {batch}", file=sys.stderr)
    header = ("convolution", "batch", "family", "us", "TFLOP/s", "relative l2", "config")
    cells = [
        (r.name, str(r.batch), r.family, f"{r.us:.1f}", f"{r.tflops:.0f}", f"{r.relative_l2:.1e}",
         r.config)
        for r in rows
    ]  # fmt: skip
    print(table([header, *cells], right=(1, 3, 4, 5)))
    out.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine.facts(commit), "rows": [vars(row) for row in rows]}
    (out / "convs-cuda.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))

"""Single convolutions on a GPU: every family on tensor cores, checked, timed, beside cuDNN.

    python -m benchmarks.convs --batches 1,16,128

Ours has bias and ReLU fused and writes fp16; cuDNN, through PyTorch, has neither. Each family has
the configuration that the cost model or a record chooses; the first row is the choice of a build.
Each kernel is captured 20 times in one CUDA graph, so that launches cost nothing. Kernels are
compiled by as many processes as there are processors. Needs torch and a GPU.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tvm
import typer

import tvmconv.runtime.tensor_map  # noqa: F401 - kernels of the wgmma family call what it registers
from benchmarks import machine
from benchmarks.launches import LAUNCHES, captured
from schedules.choose import Policy, choose, options
from schedules.conv.activations import Activation
from schedules.conv.signature import BIAS, WEIGHT
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.lowering import KERNELS, LOWERING
from schedules.registry import family
from tvmconv import knobs
from tvmconv.cli.inputs import run_or_tell, tell
from tvmconv.compiler import cubins, toolchain
from tvmconv.errors import TargetError, TvmconvError
from tvmconv.passes import pipeline
from tvmconv.records import store as records
from tvmconv.reports.collect.latency import Effort, cuda_time
from tvmconv.reports.render.tables import table
from tvmconv.runtime import gpu

#: By name: C, H and W, K, R and S, stride, padding.
SHAPES = {
    "tutorial": (256, 14, 512, 3, 1, 1),
    "resnet18.stem": (3, 224, 64, 7, 2, 3),
    "resnet18.layer1": (64, 56, 64, 3, 1, 1),
    "resnet18.layer2.down": (64, 56, 128, 3, 2, 1),
    "resnet18.layer2": (128, 28, 128, 3, 1, 1),
    "resnet18.layer3": (256, 14, 256, 3, 1, 1),
    "resnet18.layer4": (512, 7, 512, 3, 1, 1),
    "resnet18.layer4.shortcut": (256, 14, 512, 1, 2, 0),
    "resnet50.layer1.expand": (64, 56, 256, 1, 1, 0),
    "resnet50.layer3.reduce": (1024, 14, 256, 1, 1, 0),
    "resnet50.layer4.expand": (512, 7, 2048, 1, 1, 0),
}
#: Batch of the first; the others are measured at several.
TUTORIAL_BATCH = 256
#: Largest relative l2 error that is timed: fp16 outputs round by at most 2**-11.
BOUND = 1e-3
CUDNN = "cuDNN"


@dataclass(frozen=True)
class Job:
    """One convolution by one family, to be compiled by another process."""

    name: str
    batch: int
    family: str
    config: Any
    arch: str

    @property
    def workload(self) -> ConvWorkload:
        """The convolution."""
        return workload(self.name, self.batch)


@dataclass(frozen=True)
class Row:
    """The result of one convolution by one family, or by cuDNN."""

    name: str
    batch: int
    family: str
    config: str
    #: True if a build would choose it.
    chosen: bool
    relative_l2: float
    us: float
    tflops: float


def workload(name: str, batch: int) -> ConvWorkload:
    """Returns the convolution of `SHAPES`, NHWC, with bias and ReLU in its epilogue."""
    c, h, k, r, stride, pad = SHAPES[name]
    epilogue = Epilogue(bias=True, activation=Activation("relu"))
    return ConvWorkload(batch, h, h, c, k, r, r, (stride, stride), (pad,) * 4, epilogue=epilogue)


def jobs(names: Sequence[str], batches: Sequence[int], arch: str) -> list[Job]:
    """Returns the jobs of every convolution.

    First the choice of a build, then every family on tensor cores with the model's configuration.
    """
    found: list[Job] = []
    hardware, known = toolchain.cuda_arch(arch), records.lookup(arch)
    for name in names:
        for batch in (TUTORIAL_BATCH,) if name == "tutorial" else batches:
            w = workload(name, batch)
            matching, _ = options(w, hardware)
            taken = choose(w, hardware, Policy(records=known))
            ways = [(taken.family, taken.config), *((one.family, one.config) for one in matching)]
            some = [
                Job(name, batch, way.name, config, arch) for way, config in ways if way.tensorized
            ]
            found += dict.fromkeys(some)
    return found


def library(job: Job) -> bytes:
    """Returns the compiled kernel, as bytes of a shared library."""
    toolchain.prepare_cuda(job.arch)
    target = pipeline.tvm_target("cuda", job.arch)
    func = family(job.family).schedule(job.workload, job.config, toolchain.cuda_arch(job.arch))
    with target, tvm.transform.PassContext(opt_level=3, config=LOWERING):
        built = tvm.compile(func, target=target, tir_pipeline=KERNELS)
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "kernel.so"
        built.export_library(str(path))
        cubins.require_cubin(path, job.arch)
        return path.read_bytes()


@dataclass(frozen=True)
class Problem:
    """A convolution's operands on the GPU, in PyTorch, and the expected result."""

    w: ConvWorkload
    x: Any
    weight: Any
    bias: Any
    expected: Any

    @classmethod
    def of(cls, w: ConvWorkload) -> Problem:
        """Returns a problem with random operands; the result is computed in fp32."""
        torch = importlib.import_module("torch")
        torch.manual_seed(0)
        dtype = getattr(torch, w.precision.x)
        x = torch.randn(w.n, w.h, w.w, w.c, device="cuda").to(dtype)
        weight = (torch.randn(w.k, w.c, w.r, w.s, device="cuda") / math.sqrt(w.c * w.r * w.s)).to(
            dtype
        )
        bias = torch.randn(w.k, device="cuda")
        image = x.float().permute(0, 3, 1, 2)
        y = torch.nn.functional.conv2d(
            image, weight.float(), bias, stride=w.stride, padding=w.padding[:2]
        )
        return cls(w, x, weight, bias, torch.relu(y).permute(0, 2, 3, 1))

    def cudnn(self) -> Callable[[], object]:
        """Returns a function that runs the convolution by cuDNN, without epilogue."""
        torch = importlib.import_module("torch")
        image = self.x.permute(0, 3, 1, 2)
        weight = self.weight.to(memory_format=torch.channels_last)
        return lambda: torch.nn.functional.conv2d(
            image, weight, stride=self.w.stride, padding=self.w.padding[:2]
        )

    def error(self, y: Any) -> float:
        """Returns the relative l2 error of an output (N, P, Q, K)."""
        return float((y.float() - self.expected).norm() / self.expected.norm())


def measure(problem: Problem, job: Job, code: bytes, chosen: bool, effort: Effort) -> Row:
    """Checks a kernel and times it. Raises `TvmconvError` for an error above `BOUND`."""
    torch, w = importlib.import_module("torch"), problem.w
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(code)
        function = tvm.runtime.load_module(str(path))["main"]
    given = {WEIGHT: problem.weight.cpu().numpy(), BIAS: problem.bias.cpu().numpy()}
    packed = family(job.family).pack(w, job.config, given)
    # Filled with NaN, so that elements that are not written show.
    y = torch.full(w.out_shape, math.nan, device="cuda", dtype=getattr(torch, w.precision.result))
    gpu = [tvm.runtime.tensor(np.asarray(array), tvm.cuda(0)) for array in packed.values()]
    x, out = (tvm.runtime.from_dlpack(tensor) for tensor in (problem.x, y))

    def call() -> object:
        return function(x, *gpu, out)

    call()
    torch.cuda.synchronize()
    error = problem.error(y)
    if not error <= BOUND:
        raise TvmconvError(f"{job.name} at batch {job.batch} by {job.family}: error {error:.1e}")
    us = _graph_us(call, effort)
    return _row(job.name, w, job.family, str(job.config), chosen, error, us)


def _row(
    name: str, w: ConvWorkload, by: str, config: str, chosen: bool, error: float, us: float
) -> Row:
    return Row(name, w.n, by, config, chosen, error, us, 2e-6 * w.useful_macs / us)


def _graph_us(call: Callable[[], object], effort: Effort) -> float:
    """Returns the median time of one launch, in microseconds."""
    compute, _ = cuda_time(captured(call).replay, tvm.cuda(0), effort)
    return compute.median_ms * 1e3 / LAUNCHES


def speed_ups(rows: Sequence[Row]) -> dict[int, float]:
    """Returns by batch the geometric mean of cuDNN's time over that of the build's choice."""
    logs: dict[int, list[float]] = {}
    for row in rows:
        if row.chosen:
            cudnn = next(
                r for r in rows if (r.name, r.batch, r.family) == (row.name, row.batch, CUDNN)
            )
            logs.setdefault(row.batch, []).append(math.log(cudnn.us / row.us))
    return {batch: math.exp(sum(some) / len(some)) for batch, some in logs.items()}


def main(
    convs: Annotated[str, typer.Option(help="names, with commas")] = ",".join(SHAPES),
    batches: Annotated[str, typer.Option(help="batch sizes, with commas")] = "1,16,128",
    out: Annotated[Path, typer.Option(help="folder for the JSON")] = Path("build/reports"),
    min_seconds: Annotated[float, typer.Option(help="shortest timing of each")] = 0.1,
    commit: Annotated[str | None, typer.Option(help="commit, outside of a git checkout")] = None,
) -> None:
    """Check and time single convolutions on this machine's GPU."""
    arch = gpu.detect_arch()
    if arch is None:
        raise TargetError("there is no NVIDIA GPU here", hint="run this on a machine with one")
    effort = Effort(min_seconds=min_seconds, warmup_ms=50)
    todo = jobs(convs.split(","), list(map(int, batches.split(","))), arch)
    # A process that has used CUDA cannot be forked.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(knobs.cores(), mp_context=spawn) as pool:
        codes = list(pool.map(library, todo))
    torch = importlib.import_module("torch")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    rows: list[Row] = []
    problem: Problem | None = None
    for job, code in zip(todo, codes, strict=True):
        first = problem is None or problem.w != job.workload
        if problem is None or first:
            problem = Problem.of(job.workload)
            us = _graph_us(problem.cudnn(), effort)
            rows.append(_row(job.name, problem.w, CUDNN, "no epilogue", False, 0.0, us))
            tell(f"{job.name} at batch {job.batch}")
        rows.append(measure(problem, job, code, first, effort))
    write(rows, out, commit)
    print(text(rows))


def text(rows: Sequence[Row]) -> str:
    """Returns the table of all rows, and the speed-ups."""
    header = ("convolution", "batch", "by", "", "us", "TFLOP/s", "relative l2", "config")
    cells = [
        (r.name, str(r.batch), r.family, "*" * r.chosen, f"{r.us:.1f}", f"{r.tflops:.0f}",
         f"{r.relative_l2:.1e}", r.config)
        for r in rows
    ]  # fmt: skip
    means = [f"batch {batch}: {ratio:.2f}" for batch, ratio in speed_ups(rows).items()]
    found = table([header, *cells], right=(1, 4, 5, 6))
    return f"{found}\n* the choice of a build; speed-up over cuDNN, geometric mean: " + ", ".join(
        means
    )


def write(rows: Sequence[Row], out: Path, commit: str | None) -> None:
    """Writes ``convs-cuda.json`` in the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine.facts(commit),
        "speed_ups": {str(batch): ratio for batch, ratio in speed_ups(rows).items()},
        "rows": [vars(row) for row in rows],
    }
    (out / "convs-cuda.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    run_or_tell(lambda: typer.run(main))

"""The time of each layer of a network, and its share of the machine's rates.

On a GPU each kernel is timed alone, as the network calls it, with many launches in one CUDA graph;
its operands are in L2 if they fit. On a CPU it is timed within a run. Needs only TVM's runtime.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from schedules.conv.workload import ConvWorkload
from schedules.machine.gpus import ARCHITECTURES, Card
from tvmconv.reports.data.build import ConvReport
from tvmconv.reports.data.layer_times import LayerTime
from tvmconv.runtime import cuda as cuda_runtime

if TYPE_CHECKING:
    from tvmconv.runtime.executable import Executable

#: Launches in a graph, and its replays; runs on a CPU, of which the first is a warm-up.
LAUNCHES, REPLAYS, RUNS = 20, 5, 4
#: Prefix of the virtual machine's own functions.
BUILTIN = "vm.builtin."


def layer_times(exe: Executable, tensors: list[Any]) -> tuple[LayerTime, ...]:
    """Returns the time of every kernel that a run starts, in order; a layer is one entry.

    tensors: on the device, from `Executable.transfer_in`. For a network in parts, of which
    onnxruntime runs some, an entry is a part, with the copies to it. Raises `TargetError` if the
    device fails.
    """
    if exe.in_parts:
        return _parts(exe, tensors)
    timed = _on_gpu if exe.target == "cuda" else _on_cpu
    calls = timed(exe, tensors)
    waiting: dict[str, deque[ConvReport]] = defaultdict(deque)
    macs: dict[str, int] = defaultdict(int)  # with those of a layer that is in the same kernel
    for layer in exe.report.convs:
        macs[layer.part_of or layer.name] += layer.useful_macs
        for kernel in layer.kernels:
            waiting[kernel].append(layer)
    card = ARCHITECTURES[exe.arch][1] if exe.target == "cuda" else None
    found: dict[str, tuple[ConvReport | None, list[float]]] = {}
    for at, (kernel, us) in enumerate(calls):
        conv = waiting[kernel].popleft() if waiting[kernel] else None
        key = conv.name if conv else f"{at} {kernel}"
        found.setdefault(key, (conv, []))[1].append(us)
    return tuple(
        _layer(conv, macs[conv.name], sum(us), len(us), card)
        if conv
        else LayerTime(key.partition(" ")[2], sum(us))
        for key, (conv, us) in found.items()
    )


def _parts(exe: Executable, tensors: list[Any]) -> tuple[LayerTime, ...]:
    """Returns the median time of every part."""
    runs = [exe.step_seconds(tensors) for _ in range(RUNS)][1:]
    return tuple(
        LayerTime(f"part {at + 1}: {part.side}", statistics.median(seconds) * 1e6)
        for at, (part, seconds) in enumerate(
            zip(exe.report.parts, zip(*runs, strict=True), strict=True)
        )
    )


def _layer(conv: ConvReport, macs: int, us: float, kernels: int, card: Card | None) -> LayerTime:
    operand = ConvWorkload.from_json(conv.workloads[0]).precision.operands[0]
    tflops, gbps = 2 * macs / us / 1e6, conv.moved_bytes / us / 1e3
    return LayerTime(
        name=conv.name,
        us=us,
        kernels=kernels,
        shape=conv.shape,
        family=conv.family,
        config=conv.config,
        tflops=tflops,
        gbps=gbps,
        instruction_share=tflops / conv.instruction_tflops if card else 0.0,
        chip_share=tflops / card.peak_tflops(operand) if card else 0.0,
        memory_share=gbps / card.memory_gbps if card else 0.0,
        limit=conv.limit,
        estimated_us=conv.cost_us,
        runner_up=conv.runner_up,
        margin=conv.runner_up_us / conv.cost_us if conv.runner_up else 0.0,
    )


def _on_gpu(exe: Executable, tensors: list[Any]) -> list[tuple[str, float]]:
    """Returns kernel and microseconds of each call."""
    device = exe.device()
    calls: list[tuple[str, Any, Sequence[Any]]] = []

    def heard(function: Any, name: str, before: bool, _: Any, *arguments: Any) -> int:
        if before and not name.startswith(BUILTIN):
            calls.append((name, function, arguments))
        return 0

    # The calls keep the memory that they read and write.
    exe.traced(heard)(tensors)
    device.sync()
    return [(name, _graph_us(device, function, args)) for name, function, args in calls]


def _graph_us(device: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    """Returns the median time of one launch, in microseconds."""
    sample = cuda_runtime.launch_sampler(device, function, arguments, LAUNCHES)
    sample()  # the first warms up
    return statistics.median(sample() for _ in range(REPLAYS))


def _on_cpu(exe: Executable, tensors: list[Any]) -> list[tuple[str, float]]:
    """Returns kernel and microseconds of each call."""
    calls: list[tuple[str, float]] = []
    start = 0.0

    def heard(_: Any, name: str, before: bool, *others: Any) -> int:
        nonlocal start
        if before:
            start = perf_counter()
        elif not name.startswith(BUILTIN):
            calls.append((name, (perf_counter() - start) * 1e6))
        return 0

    run = exe.traced(heard)
    runs = []
    for _ in range(RUNS):
        calls = []
        run(tensors)
        runs.append(calls)
    names = [name for name, _ in calls]
    times = zip(*([us for _, us in one] for one in runs[1:]), strict=True)
    return list(zip(names, map(statistics.median, times), strict=True))

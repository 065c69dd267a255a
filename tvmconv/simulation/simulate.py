"""`simulate`: runs a network on a simulated tensor core and compares it with onnxruntime in fp32.

Relative errors are defined as in a published run of ResNet-18 on such a simulator: over all images,

    F_n = sum ||x - x'||_n / sum ||x||_n, in percent, n = 1 and 2,

where x is an output of onnxruntime and x' the simulated one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from intrinsics.dtypes import FP16
from intrinsics.volta import timing
from intrinsics.volta.hmma import F32, PROGRAM_F32
from schedules.conv.gemm import Gemm
from schedules.conv.workload import ConvWorkload
from schedules.families.simulated.family import TILE, HmmaSimFamily
from tvmconv.compiler.build import build
from tvmconv.compiler.targets import SIMULATED
from tvmconv.errors import FeedError
from tvmconv.images import read_images
from tvmconv.onnx.batches import OneShapes
from tvmconv.onnx.model import Model, fix_shapes, inputs, read, specs
from tvmconv.reports.collect.comparison import reference_outputs
from tvmconv.reports.data.build import ConvReport
from tvmconv.reports.data.simulation import OutputError, SimulatedLayer, SimulationReport
from tvmconv.runtime import simulator
from tvmconv.runtime.executable import Executable

Array = NDArray[Any]
#: HMMA instructions of one WMMA, by numerics; two m16n8k16 from Ampere on. Other numerics belong to
#: no GPU.
INSTRUCTIONS = {"v100": len(PROGRAM_F32.instructions), "a100": 2, "h100": 2}

#: Called before each image with its number, from 1.
Watch = Callable[[int], None]


def simulate(
    model: Model,
    images: str | Path | Iterable[Mapping[str, Any]],
    *,
    numerics: str = simulator.DEFAULT,
    activations: str = FP16.name,
    shapes: OneShapes = None,
    watch: Watch = lambda number: None,
) -> SimulationReport:
    """Runs a network on a simulated tensor core, and onnxruntime in fp32, on the same images.

    images: feeds, as `Executable.run` takes them, of one image each; or a folder of images, as
        `read_images` takes it. An open first dimension is 1.
    model, shapes, numerics, activations: as of `build`, whose target is ``"hmma-sim"``.
    watch: called before each image.

    On one core an image of ResNet-18 takes some 25 s.

    Raises as `build` does, `FeedError` for feeds that do not fit or no feeds at all, and
    `ModelError` for a model that onnxruntime can't run.
    """
    proto = read(model)
    one = _at_one(proto, shapes)
    feeds_of_all = _feeds(images, one)
    exe = build(
        proto, SIMULATED, batch=1, shapes=shapes, numerics=numerics, activations=activations
    )
    reference = one.SerializeToString()
    sums = {spec.name: _Sums() for spec in exe.outputs}
    count = 0
    for feeds in feeds_of_all:
        count += 1
        watch(count)
        ours = exe.run(feeds)
        for name, expected in reference_outputs(reference, feeds).items():
            sums[name].add(expected, np.asarray(ours[name]))
    if not count:
        raise FeedError("there are no images to simulate", hint="give one or more")
    return SimulationReport(
        numerics=numerics,
        activations=activations,
        reference=f"onnxruntime {onnxruntime.__version__}, fp32 on the CPU",
        images=count,
        outputs=tuple(one.error(name, count) for name, one in sums.items()),
        layers=simulated_layers(exe, numerics),
        others=tuple(one.name for one in exe.report.convs if not is_simulated(one)),
    )


def _feeds(
    images: str | Path | Iterable[Mapping[str, Any]], model: onnx.ModelProto
) -> Iterable[Mapping[str, Any]]:
    if isinstance(images, str | Path):
        return read_images(images, specs(inputs(model)))
    return images


def _at_one(proto: onnx.ModelProto, shapes: OneShapes) -> onnx.ModelProto:
    return fix_shapes(proto, 1, shapes)


class _Sums:
    """Sums over images of the 1- and 2-norms of reference, simulated output and difference."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.norms = np.zeros((3, 2))

    def add(self, reference: Array, ours: Array) -> None:
        self.shape = reference.shape
        x, y = (one.astype(np.float64).ravel() for one in (reference, ours))
        with np.errstate(invalid="ignore"):  # inf - inf, where both overflowed
            self.norms += [[float(np.linalg.norm(one, n)) for n in (1, 2)] for one in (x, y, x - y)]

    def error(self, name: str, images: int) -> OutputError:
        reference, simulated, difference = self.norms / images
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = 100 * difference / reference
        return OutputError(
            name=name,
            shape=self.shape,
            reference_norm=float(reference[1]),
            simulated_norm=float(simulated[1]),
            absolute_1=float(difference[0]),
            absolute_2=float(difference[1]),
            f_1=float(relative[0]),
            f_2=float(relative[1]),
        )


def simulated_layers(exe: Executable, numerics: str) -> tuple[SimulatedLayer, ...]:
    """Tensor-core work of the tensorized convolutions of a network built for hmma-sim."""
    return tuple(_layer(one, numerics) for one in exe.report.convs if is_simulated(one))


def is_simulated(conv: ConvReport) -> bool:
    """True for a layer whose products are simulated; those of integers are not."""
    return conv.family == HmmaSimFamily.name


def _layer(conv: ConvReport, numerics: str) -> SimulatedLayer:
    gemms = [Gemm.of(workload, TILE) for workload in map(ConvWorkload.from_json, conv.workloads)]
    wmmas = sum(gemm.padded_macs // 16**3 for gemm in gemms)
    each = INSTRUCTIONS.get(numerics)
    timed = numerics == simulator.VOLTA.name
    return SimulatedLayer(
        name=conv.name,
        shape=conv.shape,
        rows=sum(gemm.m_pad for gemm in gemms),
        columns=gemms[0].groups * gemms[0].k_pad,
        steps=gemms[0].reduction.outer * gemms[0].i_pad // 16,
        wmmas=wmmas,
        instructions=None if each is None else each * wmmas,
        sm_cycles=_cycles(gemms, 1) if timed else None,
        chip_cycles=_cycles(gemms, timing.MULTIPROCESSORS) if timed else None,
    )


def _cycles(gemms: Iterable[Gemm], multiprocessors: int) -> int:
    return sum(
        timing.gemm_cycles(
            F32,
            gemm.m_pad,
            gemm.groups * gemm.k_pad,
            gemm.reduction.outer * gemm.i_pad,
            multiprocessors=multiprocessors,
        )
        for gemm in gemms
    )

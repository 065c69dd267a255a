"""Errors of a simulated network against onnxruntime, and its cycles: `SimulationReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tvmconv.reports.data.report import Report, finite_or_none


@dataclass(frozen=True)
class OutputError:
    """The error of one output.

    Norms and absolute errors are means over images; `f_1` and `f_2` are in percent.
    """

    name: str
    shape: tuple[int, ...]
    #: l2 norms of onnxruntime's output and of the simulated one.
    reference_norm: float
    simulated_norm: float
    #: Norms of the difference: ||x - x'||_1 and ||x - x'||_2.
    absolute_1: float
    absolute_2: float
    #: F_n of `tvmconv.simulation.simulate`; NaN if the reference is all zeros.
    f_1: float
    f_2: float


@dataclass(frozen=True)
class SimulatedLayer:
    """A convolution or matrix product on the simulated tensor core, for one image."""

    name: str
    shape: str
    #: Sizes of the product, padded to whole instructions, over all stride phases and groups.
    rows: int
    columns: int
    #: WMMAs in sequence for one tile of 16 x 16.
    steps: int
    wmmas: int
    #: HMMA instructions; None if the numerics are not a chip's.
    instructions: int | None
    #: Cycles of the tensor cores, without loads or stores, on one multiprocessor of a V100 and on
    #: all 80; None for other numerics, whose cycles are not published.
    sm_cycles: int | None
    chip_cycles: int | None


@dataclass(frozen=True)
class SimulationReport(Report):
    """Errors and cycles of a simulation. ``print(report)`` is two tables."""

    numerics: str
    activations: str
    reference: str
    images: int
    outputs: tuple[OutputError, ...]
    layers: tuple[SimulatedLayer, ...]
    #: Convolutions that are not on tensor cores, by name: they ran as on llvm.
    others: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by their names here, NaN and infinity as None."""
        plain = asdict(self)
        return {**plain, "outputs": [finite_or_none(output) for output in plain["outputs"]]}

"""Errors of a simulated network against onnxruntime, and its cycles: `SimulationReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tvmconv.reports.data.report import Report, finite_or_none


@dataclass(frozen=True)
class OutputError:
    """One output's. Norms and absolute errors are means over images; `f_1` and `f_2` percent."""

    name: str
    shape: tuple[int, ...]
    #: l2, of onnxruntime's output and of the simulated one.
    reference_norm: float
    simulated_norm: float
    #: Of the difference: ||x - x'||_1 and ||x - x'||_2.
    absolute_1: float
    absolute_2: float
    #: F_n of `tvmconv.simulation.simulate`; NaN where the reference is all zeros.
    f_1: float
    f_2: float


@dataclass(frozen=True)
class SimulatedLayer:
    """A convolution or matrix product, as the tensor core sees it: of one image."""

    name: str
    shape: str
    #: Of the product, filled up to whole instructions; of all stride phases and groups.
    rows: int
    columns: int
    #: WMMAs that one tile of 16 x 16 takes, one after the other.
    steps: int
    wmmas: int
    #: HMMA issued; None where the numerics are no chip's.
    instructions: int | None
    #: Of the tensor cores alone: no loads, no stores. On one multiprocessor of a V100, and on all
    #: 80; None for other numerics, whose cycles nobody has published.
    sm_cycles: int | None
    chip_cycles: int | None


@dataclass(frozen=True)
class SimulationReport(Report):
    """``print(report)`` is two tables; `to_json` gives the fields."""

    numerics: str
    activations: str
    reference: str
    images: int
    outputs: tuple[OutputError, ...]
    layers: tuple[SimulatedLayer, ...]
    #: Convolutions that are not on tensor cores, by name: they ran as on llvm.
    others: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as they are called here. JSON has no NaN or infinity: those become None."""
        plain = asdict(self)
        return {**plain, "outputs": [finite_or_none(output) for output in plain["outputs"]]}

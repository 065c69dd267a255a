"""The time of one layer, or of another kernel: `LayerTime`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """The time of a layer, or of another kernel, which has only the first three fields.

    Rates are by the definition, without padding. Shares are of the rates that the hardware reaches
    at best, 0 to 1, or 0 if unknown, as on a CPU.
    """

    #: Name of the layer, or of TVM's kernel.
    name: str
    us: float
    #: Number of kernels.
    kernels: int = 1
    shape: str = ""
    family: str = ""
    config: str = ""
    tflops: float = 0.0
    gbps: float = 0.0
    #: Shares of its instruction's rate, of the chip's fastest, and of the memory bandwidth.
    instruction_share: float = 0.0
    chip_share: float = 0.0
    memory_share: float = 0.0
    #: By the model: its limit and microseconds; the next best family, and the factor by which that
    #: is slower.
    limit: str = ""
    estimated_us: float = 0.0
    runner_up: str = ""
    margin: float = 0.0

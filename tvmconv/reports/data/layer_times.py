"""The time of one layer, or of another kernel: `LayerTime`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """A layer, or another kernel, of which only the first three fields are known.

    Rates count what the definition asks for, padding not; shares are of the time that would be
    left if nothing else were in the way, 0 to 1, or 0 where that is not known, as on a CPU.
    """

    #: That of the layer, or of TVM's kernel.
    name: str
    us: float
    #: How many kernels that takes.
    kernels: int = 1
    shape: str = ""
    family: str = ""
    config: str = ""
    tflops: float = 0.0
    gbps: float = 0.0
    #: Of the rate of the instruction it uses, of the chip's fastest, and of the memory's.
    instruction_share: float = 0.0
    chip_share: float = 0.0
    memory_share: float = 0.0
    #: What the model says of it: what limits it, how long it takes; the next best family, and how
    #: many times as long that takes by the model.
    limit: str = ""
    estimated_us: float = 0.0
    runner_up: str = ""
    margin: float = 0.0

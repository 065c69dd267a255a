"""The pipeline on mbarriers: one thread has the copy engine fill its stages, warpgroups read them.

It has `stages` buffers, each filled while the ones before it are read:

    producer    acquire a stage, copy into it, commit
    consumers   wait for a stage, read it, release it

Compare CuTe's ``PipelineTmaAsync``.
"""

from __future__ import annotations

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.threads import ptx
from schedules.threads.control import unrolled, when
from schedules.threads.registers import Variable
from schedules.threads.shared_memory import SharedArray, SharedMemory


class _Turn:
    """A stage and the parity of the phase to wait for, which changes with every round."""

    def __init__(self, stages: int, stage: Variable, parity: Variable) -> None:
        self._stages, self._stage, self._parity = stages, stage, parity

    @property
    def stage(self) -> Expr:
        return self._stage.value

    @property
    def parity(self) -> Expr:
        return self._parity.value

    def advance(self) -> None:
        self._stage.set(self.stage + 1)
        with when(self.stage == self._stages):
            self._stage.set(0)
            self._parity.set(self.parity ^ 1)


class BarrierPipeline:
    """Stages that one thread has the copy engine fill, and that `consumers` warpgroups read.

    Each stage has two barriers, parts ``full`` and ``empty`` of shared memory (``uint64``, one
    element for each stage): the first ends a phase when the bytes have arrived, the second when
    every consumer has released the stage.
    """

    def __init__(self, shared: SharedMemory, stages: int, consumers: int) -> None:
        self.stages, self.consumers = stages, consumers
        self.full: SharedArray = shared.array("full")
        self.empty: SharedArray = shared.array("empty")

    def initialise(self) -> None:
        """Prepares the barriers: by one thread, before `ptx.fence_proxy` and `ptx.block_sync`."""
        with unrolled(self.stages, "stage") as stage:
            ptx.mbarrier_init(self.full.pointer(stage), 1)
            ptx.mbarrier_init(self.empty.pointer(stage), self.consumers)

    def producer(self) -> Producer:
        """The writing end, for one thread; declares its variables."""
        return Producer(self)

    def consumer(self, lane: Expr) -> Consumer:
        """The reading end, for the threads of a warpgroup; declares its variables. lane: number
        of the thread in its warpgroup."""
        return Consumer(self, lane)


class Producer:
    """The end of a `BarrierPipeline` that fills stages."""

    def __init__(self, pipeline: BarrierPipeline) -> None:
        self._pipeline = pipeline
        # All stages are empty at first: the phase before the first counts as ended.
        self._turn = _Turn(pipeline.stages, Variable("stage", 0), Variable("phase", 1))

    @property
    def stage(self) -> Expr:
        """The stage to fill."""
        return self._turn.stage

    @property
    def full(self) -> Expr:
        """The barrier on which copies into the stage count their bytes."""
        return self._pipeline.full.pointer(self.stage)

    def acquire(self, bytes: Expr) -> None:
        """Waits until the stage is empty, and says how many bytes will be copied into it."""
        ptx.mbarrier_wait(self._pipeline.empty.pointer(self.stage), self._turn.parity)
        ptx.mbarrier_arrive_expect(self.full, T.Cast("uint32", bytes))

    def commit(self) -> None:
        """On to the next stage; the copies themselves call this one full."""
        self._turn.advance()


class Consumer:
    """The end of a `BarrierPipeline` that reads stages.

    Products run on while the next stage is waited for, so a stage is released one step late:
    `wait` for stage i, start its products, wait for those of stage i - 1, `release` that,
    `advance`.
    """

    def __init__(self, pipeline: BarrierPipeline, lane: Expr) -> None:
        self._pipeline, self._lane = pipeline, lane
        stage, self._before = Variable("stage", 0), Variable("before", 0)
        self._turn = _Turn(pipeline.stages, stage, Variable("phase", 0))

    @property
    def stage(self) -> Expr:
        """The stage to read."""
        return self._turn.stage

    def wait(self) -> None:
        """Waits until the stage is full."""
        ptx.mbarrier_wait(self._pipeline.full.pointer(self.stage), self._turn.parity)

    def advance(self) -> None:
        """On to the next stage; this one is to be released."""
        self._before.set(self.stage)
        self._turn.advance()

    def release(self) -> None:
        """Calls the stage before this one empty, for all threads of the warpgroup."""
        with when(self._lane == 0):
            ptx.mbarrier_arrive(self._pipeline.empty.pointer(self._before.value))

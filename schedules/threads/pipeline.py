"""The two pipelines between copies to shared memory and the products that read it.

Both have `stages` buffers, each filled while the ones before it are read:

    who writes   acquire a stage, copy into it, commit
    who reads    wait for a stage, read it, release it

`AsyncCopyPipeline` is on cp.async: all threads of the block copy, and all read. `BarrierPipeline`
is on mbarriers: one thread tells the copy engine what to copy, and consumers read. Compare CuTe's
``PipelineAsync`` and ``PipelineTmaAsync``.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.threads import ptx
from schedules.threads.control import Index, unrolled, when
from schedules.threads.registers import Variable
from schedules.threads.shared_memory import SharedArray, SharedMemory

# ------------------------------------------------------------------ on cp.async


class AsyncCopyPipeline:
    """Stages that all threads of the block fill by cp.async, a group of copies for each.

    `stages` - 1 groups are under way at most. Every thread commits a group for every stage, an
    empty one past the end. A kernel that counts steps takes the stage from the step; one that does
    not keeps it in a register, by a `writer` and a `reader`.
    """

    def __init__(self, stages: int, stage_bytes: int) -> None:
        self.stages, self.stage_bytes = stages, stage_bytes

    @property
    def ahead(self) -> int:
        """Stages that are committed before the first is waited for."""
        return max(self.stages - 1, 1)

    def stage(self, step: Index) -> Index:
        """The stage of a step."""
        return step % self.stages

    def commit(self) -> None:
        """Closes the group of copies into a stage."""
        ptx.cp_async_commit()

    def wait(self) -> None:
        """Waits until all threads' copies into the next stage have arrived. Then all have read the
        stage before it, which may be written."""
        ptx.cp_async_wait(max(self.stages - 2, 0))
        T.evaluate(T.tvm_storage_sync("shared.dyn"))

    def drain(self) -> None:
        """Waits until none of the thread's copies are under way."""
        ptx.cp_async_wait(0)

    def writer(self, name: str) -> AsyncWriter:
        """The writing end, with its stage in a register of that name, declared here."""
        return AsyncWriter(name, self)

    def reader(self, name: str) -> AsyncReader:
        """The reading end, with its stage in a register of that name, declared here."""
        return AsyncReader(name, self)


class _End:
    """A stage in a register, as its offset in bytes from the first stage."""

    def __init__(self, name: str, pipeline: AsyncCopyPipeline) -> None:
        self._pipeline = pipeline
        self._offset = Variable(name, T.uint32(0))

    @property
    def offset(self) -> Expr:
        """Bytes from the first stage to the one in turn, as ``uint32``."""
        return self._offset.value

    def _advance(self) -> None:
        stages, size = self._pipeline.stages, self._pipeline.stage_bytes
        last = tirx.EQ(self.offset, T.uint32((stages - 1) * size))
        self._offset.set(T.Select(last, T.uint32(0), self.offset + T.uint32(size)))


class AsyncWriter(_End):
    """Fills stages. There is nothing to acquire: the reader's `wait` says that a stage is free."""

    def commit(self) -> None:
        """Closes the group of copies into the stage, and goes on to the next."""
        self._advance()
        self._pipeline.commit()


class AsyncReader(_End):
    """Reads stages."""

    def wait(self) -> None:
        """Waits for the next stage, the first time for the first (`AsyncCopyPipeline.wait`)."""
        self._pipeline.wait()

    def release(self) -> None:
        """Leaves the stage, and goes on to the next."""
        self._advance()


# ------------------------------------------------------------------ on mbarriers


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

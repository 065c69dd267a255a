"""The pipeline on cp.async: all threads of the block fill its stages, and all read them.

It has `stages` buffers, each filled while the ones before it are read:

    who writes   copy into a stage, commit
    who reads    wait for a stage, read it, release it

There is nothing to acquire: once all threads have waited for a stage, all have read the one before
it, which may be written. Compare CuTe's ``cp_async_wait`` loops and ``PipelineAsync``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from schedules.threads import ptx
from schedules.threads.control import Index, serial, when
from schedules.threads.registers import Variable


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
        """Waits until all threads' copies into the next stage have arrived, and all threads have
        read the stage before it."""
        ptx.cp_async_wait(max(self.stages - 2, 0))
        ptx.shared_sync()

    @contextmanager
    def over(self, steps: int, copy: Callable[[Index], None]) -> Iterator[Expr]:
        """A loop over so many steps, whose stages `copy` fills `ahead` steps before; gives the
        step, whose stage has arrived."""
        for step in range(self.ahead):
            if step < steps:
                copy(step)
            self.commit()
        with serial(steps, "step") as step:
            self.wait()
            if steps > self.ahead:
                following = step + self.ahead
                with when(following < steps):
                    copy(following)
            self.commit()
            yield step
        self.drain()

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
    """Fills stages."""

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

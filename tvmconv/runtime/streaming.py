"""`Executable.map` on a GPU: one batch is copied in while one computes and one is copied out.

The three steps run on a stream each. A batch uses a slot: a binding, pinned memory for its arrays
on the host, and an event after each step. A slot is reused when its results are copied out. With
three slots no step waits for another batch.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tvmconv.runtime.binding import Binding
from tvmconv.runtime.buckets import Chunk, is_whole
from tvmconv.runtime.cuda import Event, Stream, pinned
from tvmconv.runtime.feeds import images, join
from tvmconv.specs import TensorSpec

Results = dict[str, Any]
SLOTS = 3
#: Copies between arrays of the host are split among COPY_THREADS threads, in pieces of PIECE_BYTES
#: or more, since one thread copies slower than the GPU reads. ResNet-18 at batch 128, fed fp16, on
#: an H200: 5.6 ms a batch with one thread, 2.9 with 4, 2.4 (its computing time) with 8.
PIECE_BYTES, COPY_THREADS = 1 << 20, min(8, os.cpu_count() or 1)


class Network(Protocol):
    """The part of an `Executable` that streaming uses."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the largest bucket."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the largest bucket."""

    def read(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Feeds, checked, in the order of `inputs`."""

    def shares(self, arrays: Sequence[Any]) -> Sequence[tuple[Any, Chunk]]:
        """The entries that run arrays of `read`, with the images that each takes."""

    def only(self, entry: Any) -> Network:
        """The network at one of its entries."""

    def bind(self) -> Binding:
        """The network at its largest bucket, with inputs and outputs that stay in place."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name, from arrays by input name."""

    def device(self) -> Any:
        """TVM's device that the network runs on."""


def stream_batches(exe: Network, batches: Iterable[Mapping[str, Any]]) -> Iterator[Results]:
    """Runs batches through the slots and yields their outputs in order."""
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        pipeline = _Pipeline(exe, pool)
        waiting: deque[_Ticket] = deque()
        try:
            for ticket in pipeline.tickets(batches):
                waiting.append(ticket)
                if len(waiting) == SLOTS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pipeline.wait()


class _Ticket(Protocol):
    """A batch that is being computed."""

    def result(self) -> Results: ...


class _Done:
    """A batch that ran at once, outside the slots."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def result(self) -> Results:
        return self._results


class _Failed:
    """A batch that could not start: its error is raised when its turn comes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> Results:
        raise self._error


class _Pipeline:
    def __init__(self, exe: Network, pool: ThreadPoolExecutor) -> None:
        self._exe, self._pool = exe, pool
        exe.device()  # loads what streams need, or says that there is no GPU
        self._streams = Stream(), Stream(), Stream()
        #: By entry of the network.
        self._slots: dict[Any, list[_Slot]] = {}
        self._turns: dict[Any, Iterator[int]] = {}

    def tickets(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[_Ticket]:
        """Starts a batch for every ticket that is requested."""
        given = iter(batches)
        while True:
            ticket: _Ticket
            try:
                ticket = self._start(next(given))
            except StopIteration:
                return
            except Exception as error:  # raised after the results of the batches before
                yield _Failed(error)
                return
            yield ticket

    def wait(self) -> None:
        """Blocks until no copy uses pinned memory."""
        for stream in self._streams:
            stream.wait()

    def _start(self, feeds: Mapping[str, Any]) -> _Ticket:
        exe = self._exe
        arrays = exe.read(feeds)
        shares = exe.shares(arrays)
        on_device = not all(isinstance(array, np.ndarray) for array in feeds.values())
        if on_device or any(entry.steps for entry, _ in shares):
            return _Done(exe.run(feeds))  # there is no copy to overlap, or it waits for the device
        if is_whole(shares):
            return _Batch(exe, [self._slot(shares[0][0]).start(arrays)])
        parts = []
        for entry, chunk in shares:
            taken = [images(array, chunk.start, chunk.bucket) for array in arrays]
            parts.append(self._slot(entry).start(taken, chunk.count))
        return _Batch(exe, parts)

    def _slot(self, entry: Any) -> _Slot:
        """The next slot for an entry of the network, in turn."""
        slots = self._slots.setdefault(entry, [])
        turn = next(self._turns.setdefault(entry, itertools.count())) % SLOTS
        if turn == len(slots):
            slots.append(_Slot(self._exe.only(entry), self._streams, self._pool))
        return slots[turn]


class _Batch:
    """A batch that runs in one slot, or in parts in several."""

    def __init__(self, exe: Network, parts: Sequence[_Part]) -> None:
        self._names = [spec.name for spec in exe.outputs]
        self._parts = parts

    def result(self) -> Results:
        outputs = zip(*(part.arrays() for part in self._parts), strict=True)
        joined = (join(one, [len(array) for array in one]) if len(one) > 1 else one[0]
                  for one in outputs)  # fmt: skip
        return dict(zip(self._names, joined, strict=True))


class _Slot:
    """A binding with pinned memory, through which one batch at a time passes."""

    def __init__(self, exe: Network, streams: Sequence[Stream], pool: ThreadPoolExecutor) -> None:
        self._streams, self._pool = streams, pool
        self._binding = exe.bind()
        self._given = [pinned(spec.shape, spec.dtype) for spec in exe.inputs]
        self.made = [pinned(spec.shape, spec.dtype) for spec in exe.outputs]
        self._inputs = [self._binding.inputs[spec.name] for spec in exe.inputs]
        self._outputs = [self._binding.outputs[spec.name] for spec in exe.outputs]
        self._arrived, self._computed, self.left = Event(), Event(), Event()
        self._part: _Part | None = None

    def start(self, arrays: Sequence[NDArray[Any]], count: int | None = None) -> _Part:
        """Enqueues the three steps. count: images whose outputs are wanted; all by default."""
        if self._part is not None:
            self._part.arrays()
        into, compute, out = self._streams
        for host, array, tensor in zip(self._given, arrays, self._inputs, strict=True):
            self.copy(host, array)
            into.copy(tensor.data_ptr(), host.ctypes.data, host.nbytes)
        compute.after(self._arrived.record(into.handle))
        self._binding.run(compute.handle.value)
        out.after(self._computed.record(compute.handle))
        for host, tensor in zip(self.made, self._outputs, strict=True):
            out.copy(host.ctypes.data, tensor.data_ptr(), host.nbytes)
        self.left.record(out.handle)
        self._part = _Part(self, count)
        return self._part

    def copy(self, to: NDArray[Any], source: NDArray[Any]) -> None:
        """Copies between arrays of the host, in pieces by several threads."""
        pieces = min(COPY_THREADS, to.nbytes // PIECE_BYTES, to.shape[0] if to.ndim else 1)
        if pieces < 2:
            np.copyto(to, source)
            return
        jobs = zip(np.array_split(to, pieces), np.array_split(source, pieces), strict=True)
        for job in [self._pool.submit(np.copyto, *pair) for pair in jobs]:
            job.result()


class _Part:
    """The results of one pass through a slot, taken out of it before it is reused."""

    def __init__(self, slot: _Slot, count: int | None) -> None:
        self._slot: _Slot | None = slot
        self._count = count
        self._arrays: list[NDArray[Any]] = []

    def arrays(self) -> list[NDArray[Any]]:
        """Every output, copied out of pinned memory."""
        if self._slot is not None:
            slot, self._slot = self._slot, None
            slot.left.wait()
            for made in slot.made:
                whole = made if self._count is None else made[: self._count]
                self._arrays.append(np.empty_like(whole))
                slot.copy(self._arrays[-1], whole)
        return self._arrays

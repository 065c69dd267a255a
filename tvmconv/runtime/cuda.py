"""Streams, events, graphs and pinned memory of CUDA's runtime library, for what TVM has no call.

It is the library that TVM's CUDA runtime links, so both share one context. Nothing here is loaded
where there is no GPU. Device 0, as everywhere.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from tvmconv.errors import TargetError

LIBRARY = "libcudart.so.13"
#: CUDA's constants of these names.
_NON_BLOCKING, _DISABLE_TIMING, _CAPTURE_RELAXED = 1, 2, 2

_Result = TypeVar("_Result")


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library


def call(name: str, *arguments: Any) -> None:
    """Raises `TargetError` where CUDA reports an error, which may be one of earlier work."""
    library = _library()
    code = getattr(library, name)(*arguments)
    if code:
        text = library.cudaGetErrorString(code).decode()
        raise TargetError(f"CUDA reports error {code}: {text}", note=f"from {name}")


def _at_end(owner: Any, release: Callable[..., object], *arguments: Any) -> None:
    """Releases once nobody has `owner` any more; not at exit, when CUDA may be gone already."""
    weakref.finalize(owner, release, *arguments).atexit = False


class Event:
    """A point in a stream's work."""

    def __init__(self, timed: bool = False) -> None:
        self.handle = ctypes.c_void_p()
        flags = ctypes.c_uint(0 if timed else _DISABLE_TIMING)
        call("cudaEventCreateWithFlags", ctypes.byref(self.handle), flags)
        _at_end(self, _library().cudaEventDestroy, self.handle)

    def record(self, stream: ctypes.c_void_p) -> Event:
        """Happens once the stream has done all that is enqueued so far."""
        call("cudaEventRecord", self.handle, stream)
        return self

    def wait(self) -> None:
        """Lets the calling thread wait for it."""
        call("cudaEventSynchronize", self.handle)

    def ms_since(self, start: Event) -> float:
        """Between two timed events, of which this one, the later, is waited for."""
        self.wait()
        ms = ctypes.c_float()
        call("cudaEventElapsedTime", ctypes.byref(ms), start.handle, self.handle)
        return ms.value


class Stream:
    """Work that is done in order, and beside that of every other stream."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        flags = ctypes.c_uint(_NON_BLOCKING)
        call("cudaStreamCreateWithFlags", ctypes.byref(self.handle), flags)
        _at_end(self, _library().cudaStreamDestroy, self.handle)

    def after(self, event: Event) -> None:
        """What is enqueued from now on waits for the event."""
        call("cudaStreamWaitEvent", self.handle, event.handle, ctypes.c_uint(0))

    def copy(self, to: int, source: int, count: int) -> None:
        """Enqueues a copy of so many bytes between two addresses, of which CUDA knows where they
        are. Only memory of `pinned` is copied while the host goes on."""
        default = ctypes.c_int(4)  # cudaMemcpyDefault
        size = ctypes.c_size_t(count)
        call("cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), size, default,
             self.handle)  # fmt: skip

    def wait(self) -> None:
        call("cudaStreamSynchronize", self.handle)


class Graph:
    """All that was enqueued while it was captured, to be enqueued again by one call."""

    def __init__(self, handle: ctypes.c_void_p, kept: Any) -> None:
        """kept: whatever owns the memory that it reads and writes."""
        self.executable = ctypes.c_void_p()
        call("cudaGraphInstantiate", ctypes.byref(self.executable), handle, ctypes.c_ulonglong(0))
        _at_end(self, _destroy, self.executable, kept)

    def launch(self, stream: ctypes.c_void_p) -> None:
        """Enqueues it. Returns at once."""
        call("cudaGraphLaunch", self.executable, stream)


def _destroy(executable: ctypes.c_void_p, kept: Any) -> None:
    """`kept` goes once nothing can be running that uses it."""
    library = _library()
    library.cudaDeviceSynchronize()
    library.cudaGraphExecDestroy(executable)


def capture(device: Any, enqueue: Callable[[], _Result]) -> tuple[Graph, _Result]:
    """What `enqueue` starts on TVM's current stream of `device`, as a graph; nothing is run.

    The graph keeps what `enqueue` gives. Raises `TargetError` where it does what can't be
    captured, such as waiting for the device.
    """
    stream, handle = Stream(), ctypes.c_void_p()
    # Relaxed: allocating memory meanwhile, here or in another thread, is no error.
    call("cudaStreamBeginCapture", stream.handle, ctypes.c_int(_CAPTURE_RELAXED))
    try:
        with tvm_ffi.use_raw_stream(device, stream.handle.value or 0):
            result = enqueue()
    finally:
        code = _library().cudaStreamEndCapture(stream.handle, ctypes.byref(handle))
    if code:
        raise TargetError(f"CUDA reports error {code} at the end of a capture")
    try:
        return Graph(handle, result), result
    finally:
        call("cudaGraphDestroy", handle)


def current_stream(device: Any) -> ctypes.c_void_p:
    """TVM's current stream: CUDA's default one, which is PyTorch's too, if nobody changed it."""
    return ctypes.c_void_p(tvm_ffi.get_raw_stream(device))


def launch_sampler(
    device: Any, function: Callable[..., Any], arguments: Sequence[Any], launches: int
) -> Callable[[], float]:
    """What gives, each time it is called, the microseconds of one launch: of a replay of a graph
    of so many, between two events, so that no time goes into starting kernels. It keeps the
    function and its arguments."""

    def enqueue() -> tuple[Any, ...]:
        for _ in range(launches):
            function(*arguments)
        return function, arguments

    graph, _ = capture(device, enqueue)
    stream = current_stream(device)

    def sample() -> float:
        start = Event(timed=True).record(stream)
        graph.launch(stream)
        stop = Event(timed=True).record(stream)
        return stop.ms_since(start) * 1e3 / launches

    return sample


def pinned(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """An array in memory of the host that the GPU copies to and from by itself."""
    size = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    address = ctypes.c_void_p()
    call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
    memory = (ctypes.c_byte * size).from_address(address.value or 0)
    _at_end(memory, _library().cudaFreeHost, address)
    array = np.frombuffer(memoryview(memory).cast("B"), dtype, int(np.prod(shape, dtype=np.int64)))
    return array.reshape(tuple(shape))

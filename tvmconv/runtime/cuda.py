"""Streams, events, graphs and pinned memory of CUDA's runtime library, which TVM does not offer.

TVM's CUDA runtime links the same library, so both share one context. It is loaded at the first
call, so that importing this needs no GPU. Everything is on device 0.
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
    """Calls a function of the library.

    Raises `TargetError` if CUDA reports an error, which may come from work enqueued before.
    """
    library = _library()
    code = getattr(library, name)(*arguments)
    if code:
        text = library.cudaGetErrorString(code).decode()
        raise TargetError(f"CUDA reports error {code}: {text}", note=f"from {name}")


def _at_end(owner: Any, release: Callable[..., object], *arguments: Any) -> None:
    """Calls `release` when `owner` is collected; not at exit, when CUDA may be unloaded already."""
    weakref.finalize(owner, release, *arguments).atexit = False


class Event:
    """A point in a stream's work."""

    def __init__(self, timed: bool = False) -> None:
        self.handle = ctypes.c_void_p()
        flags = ctypes.c_uint(0 if timed else _DISABLE_TIMING)
        call("cudaEventCreateWithFlags", ctypes.byref(self.handle), flags)
        _at_end(self, _library().cudaEventDestroy, self.handle)

    def record(self, stream: ctypes.c_void_p) -> Event:
        """Records the event after all work that is in the stream so far. Returns the event."""
        call("cudaEventRecord", self.handle, stream)
        return self

    def wait(self) -> None:
        """Blocks the calling thread until the event has happened."""
        call("cudaEventSynchronize", self.handle)

    def ms_since(self, start: Event) -> float:
        """Milliseconds since an earlier event. Both are timed. Waits for this one."""
        self.wait()
        ms = ctypes.c_float()
        call("cudaEventElapsedTime", ctypes.byref(ms), start.handle, self.handle)
        return ms.value


class Stream:
    """A queue of work, done in order and concurrently with other streams."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        flags = ctypes.c_uint(_NON_BLOCKING)
        call("cudaStreamCreateWithFlags", ctypes.byref(self.handle), flags)
        _at_end(self, _library().cudaStreamDestroy, self.handle)

    def after(self, event: Event) -> None:
        """Makes work that is enqueued from now on wait for an event."""
        call("cudaStreamWaitEvent", self.handle, event.handle, ctypes.c_uint(0))

    def copy(self, to: int, source: int, count: int) -> None:
        """Enqueues a copy of `count` bytes between two addresses, each of the host or the device.

        Only a copy from or to `pinned` memory runs while the host continues.
        """
        default = ctypes.c_int(4)  # cudaMemcpyDefault
        size = ctypes.c_size_t(count)
        call("cudaMemcpyAsync", ctypes.c_void_p(to), ctypes.c_void_p(source), size, default,
             self.handle)  # fmt: skip

    def wait(self) -> None:
        """Blocks the calling thread until the stream is empty."""
        call("cudaStreamSynchronize", self.handle)


class Graph:
    """Captured work, enqueued again by one call."""

    def __init__(self, handle: ctypes.c_void_p, kept: Any) -> None:
        """kept: the owners of the memory that it reads and writes, kept as long as the graph."""
        self.executable = ctypes.c_void_p()
        call("cudaGraphInstantiate", ctypes.byref(self.executable), handle, ctypes.c_ulonglong(0))
        _at_end(self, _destroy, self.executable, kept)

    def launch(self, stream: ctypes.c_void_p) -> None:
        """Enqueues the work. Returns at once."""
        call("cudaGraphLaunch", self.executable, stream)


def _destroy(executable: ctypes.c_void_p, kept: Any) -> None:
    """Destroys a graph after all work is done, since `kept` may be freed after this."""
    library = _library()
    library.cudaDeviceSynchronize()
    library.cudaGraphExecDestroy(executable)


def capture(device: Any, enqueue: Callable[[], _Result]) -> tuple[Graph, _Result]:
    """Captures the work that `enqueue` puts on TVM's current stream of `device`; nothing runs.

    Returns the graph and the result of `enqueue`, which the graph keeps. Raises `TargetError` if
    `enqueue` does something that can't be captured, such as waiting for the device.
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
    """TVM's current stream: by default CUDA's default stream, which PyTorch uses too."""
    return ctypes.c_void_p(tvm_ffi.get_raw_stream(device))


def launch_sampler(
    device: Any, function: Callable[..., Any], arguments: Sequence[Any], launches: int
) -> Callable[[], float]:
    """Returns a function that measures one launch of `function`, in microseconds.

    Each call replays a graph of `launches` launches between two events and divides, so that the
    host's cost of starting kernels does not count. It keeps the function and its arguments.
    """

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
    """An array in page-locked memory of the host, which the GPU copies from and to by itself."""
    size = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    address = ctypes.c_void_p()
    call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
    memory = (ctypes.c_byte * size).from_address(address.value or 0)
    _at_end(memory, _library().cudaFreeHost, address)
    array = np.frombuffer(memoryview(memory).cast("B"), dtype, int(np.prod(shape, dtype=np.int64)))
    return array.reshape(tuple(shape))

"""Compiles the emulator, once, and translated kernels, with g++."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from schedules.errors import EmulatorError

#: Fibers jump, which fortified code rejects. fp16 arithmetic rounds every result.
COMMON = (
    "g++", "-std=c++17", "-march=native", "-U_FORTIFY_SOURCE", "-fno-exceptions", "-fno-rtti",
    "-fexcess-precision=16", "-fno-diagnostics-show-caret", "-shared", "-fPIC",
)  # fmt: skip
#: More optimisation would take longer than the kernels run.
RUNTIME = ("-O1",)
#: A kernel takes longer to compile than to run. Registers that were not written hold NaN. A
#: thread's stack is 256 KiB (`fibers.h`). What a vector is read from or written to has to be
#: aligned, as on a GPU (`runtime.cpp`).
KERNEL = (
    "-O0",
    "-fsanitize=alignment",
    "-fno-sanitize-recover=alignment",
    "-ftrivial-auto-var-init=pattern",
    "-Werror=frame-larger-than=196608",
)
SOURCES = Path(__file__).parent


def available() -> bool:
    """Returns True if the C++ compiler that the emulator needs is installed."""
    return shutil.which("g++") is not None


class Launch(ctypes.Structure):
    """The `Launch` of `fibers.h`."""

    _fields_ = (
        ("blocks", ctypes.c_int * 3),
        ("threads", ctypes.c_int * 3),
        ("cluster", ctypes.c_int),
        ("resident", ctypes.c_int),
        ("shared_bytes", ctypes.c_int),
    )


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Returns the folder for compiled code, which lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="tvmconv-emulator-")


@cache
def runtime() -> Path:
    """Returns the compiled library with the instructions."""
    library = Path(_folder().name) / "runtime.so"
    _compile(*RUNTIME, str(SOURCES / "runtime.cpp"), "-o", str(library))
    return library


def kernel(program: str) -> ctypes.CDLL:
    """Compiles a translated kernel. Raises `EmulatorError` with the compiler's messages."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(program)
    _compile(*KERNEL, f"-I{SOURCES}", str(source), str(runtime()), "-o", str(library))
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded


def run(program: str, launch: Launch, pointers: list[int]) -> str | None:
    """Runs a translated kernel with the addresses of its parameters. Returns the fault, or None."""
    function = kernel(program).kernel
    library = ctypes.CDLL(str(runtime()))
    library.run.restype = ctypes.c_char_p
    given = (ctypes.c_void_p * len(pointers))(*pointers)
    said = library.run(function, given, ctypes.byref(launch))
    return None if said is None else said.decode()


def _compile(*arguments: str) -> None:
    if not available():
        raise EmulatorError("the emulator needs a C++ compiler", hint="install g++")
    done = subprocess.run([*COMMON, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulatorError(
            "the C++ text of a kernel does not compile",
            note="\n".join(re.findall(r".*error:.*", done.stderr)[:5]),
            hint="kernel.h declares what kernels may call",
        )

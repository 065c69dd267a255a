"""The GPU of this machine, and TVM's CUDA runtime, without which TVM sees none."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import tvm
from tvm.libinfo import package_lib_paths
from tvm_ffi.libinfo import load_lib_ctypes

from tvmconv.errors import ToolchainError


def detect_arch() -> str | None:
    """The architecture of GPU 0, such as ``sm_90a``; None where no GPU can be used.

    It need not be one that networks are built for. Loads TVM's CUDA runtime, which running a
    network needs, where `import tvm` could not.
    """
    try:
        load_cuda_runtime()
    except ToolchainError:
        return None
    device = tvm.cuda(0)
    # `exist` is also False with the stub loaded: none of its functions succeeds.
    if not device.exist:
        return None
    name = f"sm_{device.compute_version.replace('.', '')}"
    # The a has Hopper's own instructions, such as WGMMA, which code for sm_90 can't use.
    return "sm_90a" if name == "sm_90" else name


def runs_on(built: str, here: str) -> bool:
    """True if machine code for the architecture `built` runs on a GPU of architecture `here`.

    Code for an architecture with an ``a`` runs on that one alone, other code on all of the same
    major compute capability with the same minor one or a later one. CUDA C++ Programming Guide,
    "Binary Compatibility".
    """
    major, minor = divmod(int(re.sub(r"\D", "", built)), 10)
    here_major, here_minor = divmod(int(re.sub(r"\D", "", here)), 10)
    if built.endswith("a"):
        return (major, minor) == (here_major, here_minor)
    return major == here_major and minor <= here_minor


def load_cuda_runtime() -> None:
    """Loads TVM's CUDA runtime, once in a process.

    It needs the driver's ``libcuda.so.1`` and CUDA's ``libcudart.so.13``, which is also looked for
    in NVIDIA's wheels. Raises `ToolchainError` where one of them is missing.
    """
    if tvm.runtime.enabled("cuda"):
        return
    # What the loader cannot find by itself is loaded first; its name then counts as found.
    if not loads("libcudart.so.13") and (toolkit := wheel_toolkit()):
        loads(f"{toolkit}/lib/libcudart.so.13")
    try:
        load_lib_ctypes("tvm", "tvm_runtime_cuda", "RTLD_GLOBAL", package_lib_paths())
    except (OSError, RuntimeError) as error:  # RuntimeError: this TVM has no such file
        raise ToolchainError(
            "TVM's CUDA runtime cannot be loaded",
            note=str(error),
            hint="libcudart.so.13 comes with CUDA 13, or run: pip install 'tvmconv[cuda]'",
        ) from error


def loads(library: str) -> bool:
    """Loads a shared library by name. False where the loader can't."""
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def wheel_toolkit() -> Path | None:
    """The folder of NVIDIA's CUDA 13 wheels; None where they are not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "cu13" / "include" / "cuda_runtime.h").is_file():
            return Path(folder) / "cu13"
    return None

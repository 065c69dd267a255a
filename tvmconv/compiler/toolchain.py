"""A compiler that turns TVM's CUDA code into machine code, on machines with and without a GPU.

TVM's CUDA code generator calls a compiler only if its CUDA runtime library is loaded, and that
library needs the driver's ``libcuda.so.1``. If either is missing, ``tvm.compile`` does not fail: it
returns a module with CUDA *source* that was never compiled. So a build does this::

    prepare_cuda("sm_90")              # before: make TVM able to call nvcc or NVRTC
    with target:                       # TVM's compiler callback reads the target from this scope
        executable = tvm.compile(module, target=target)
    executable.export_library(path)
    require_cubin(path, "sm_90")       # after: `tvmconv.compiler.cubins` looks for machine code
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import tvm

from schedules.machine.hardware import CUDA_ARCHS, Hardware
from tvmconv.errors import TargetError, ToolchainError
from tvmconv.runtime import gpu


def cuda_arch(name: str) -> Hardware:
    """Returns the architecture of that name. Raises `TargetError` that lists the known ones."""
    known = {hardware.name: hardware for hardware in CUDA_ARCHS}
    if name in known:
        return known[name]
    meant = "sm_" + re.sub(r"^(sm|compute)|[^0-9a-z]", "", name.strip().lower())
    raise TargetError(
        f"there is no CUDA architecture {name!r}",
        note=f"known are {', '.join(known)}",
        hint=f"did you mean {meant!r}?" if meant in known else "",
    )


# --- before a build: a compiler, and TVM's CUDA runtime -------------------------------------
_MODE = "TVM_CUDA_COMPILE_MODE"  # TVM's own variable; its default, nvrtc, ignores an nvcc on PATH
_LOCK = threading.Lock()


def prepare_cuda(arch: str | None = None) -> str:
    """Prepares this process so that TVM's CUDA code generator can call a compiler.

    Uses nvcc from PATH or CUDA_HOME, else NVRTC from the ``cuda`` extra, or the one that
    ``TVM_CUDA_COMPILE_MODE`` names. Sets the environment variables that TVM reads, for this process
    and its children. Without an NVIDIA driver, loads a stub of it. May be called repeatedly, from
    any thread.

    Returns ``"nvcc"`` or ``"nvrtc"``. Raises `ToolchainError` if something is missing, and
    `TargetError` if `arch` is given and does not exist or the compiler does not support it.
    """
    wanted = None if arch is None else cuda_arch(arch)
    with _LOCK:
        mode, numbers = _choose_compiler()
        if wanted is not None and wanted.sm not in numbers:
            raise TargetError(
                f"the CUDA compiler found ({mode}) cannot compile for {arch}",
                note=f"it compiles for {', '.join(f'sm_{n}' for n in sorted(numbers))}",
                hint=f"put an nvcc that can on PATH, or set {_MODE} to choose nvcc or nvrtc",
            )
        if not tvm.runtime.enabled("cuda") and not gpu.loads("libcuda.so.1"):
            _load_driver_stub()
        gpu.load_cuda_runtime()
        os.environ[_MODE] = mode
        # ptxas's own default. TVM's is 10, which saves registers that are not scarce, and spills.
        os.environ.setdefault("TVM_CUDA_PTXAS_REG_LEVEL", "5")
        # Fast math flushes small numbers to zero, and returns NaN for powers of negative ones.
        os.environ.setdefault("TVM_CUDA_NVCC_NO_FAST_MATH", "1")
        os.environ.setdefault(
            "TVM_CUDA_NVRTC_EXTRA_OPTS", "--ftz=false --prec-div=true --prec-sqrt=true"
        )
    return mode


def compiler_version(mode: str) -> str:
    """Version of the compiler that `prepare_cuda` found, such as ``nvcc 13.0``.

    Raises `ToolchainError`.
    """
    if mode == "nvrtc":
        _, major, minor = importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
        return f"nvrtc {major}.{minor}"
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release ([\d.]+)", said)
    if release is None:
        raise ToolchainError("nvcc does not say its version", note=said.strip())
    return f"nvcc {release[1]}"


def _choose_compiler() -> tuple[str, set[int]]:
    """The compiler to use, with the compute capabilities it supports. Raises `ToolchainError`."""
    finders = {"nvcc": _find_nvcc, "nvrtc": _find_nvrtc}
    wish = os.environ.get(_MODE, "").lower()
    if wish and wish not in finders:
        raise ToolchainError(f"{_MODE} is {wish!r}", hint="unset it, or make it nvcc or nvrtc")
    for mode in [wish] if wish else finders:
        numbers = finders[mode]()
        if numbers:
            return mode, numbers
    raise ToolchainError(
        f"no CUDA compiler was found (looked for {wish or 'nvcc, then NVRTC'})",
        note=f"{_MODE} asks for {wish} alone" if wish else "",
        hint="put nvcc on PATH, or set CUDA_HOME, or run: pip install 'tvmconv[cuda]'",
    )


def _find_nvcc() -> set[int]:
    """Compute capabilities that nvcc supports; empty without nvcc. Puts CUDA_HOME's on PATH."""
    if shutil.which("nvcc") is None:
        folder = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
        if shutil.which("nvcc", path=folder) is None:
            return set()
        # TVM runs plain "nvcc", so it has to be on PATH.
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    command = ["nvcc", "--list-gpu-code"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {int(digits) for digits in re.findall(r"sm_(\d+)", answer)}


def _find_nvrtc() -> set[int]:
    """Compute capabilities that NVRTC supports; empty without NVRTC. Tells TVM its headers."""
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        _, numbers = nvrtc.nvrtcGetSupportedArchs()
    except (ImportError, RuntimeError):  # RuntimeError: the bindings found no libnvrtc
        return set()
    if "CUDA_PATH" not in os.environ:
        root = gpu.wheel_toolkit()
        if root is None:
            return set()
        os.environ["CUDA_PATH"] = str(root)
        # TVM looks for libcu++ (cuda/std) where the toolkit keeps it; the wheels differ.
        options = os.environ.get("TVM_CUDA_NVRTC_EXTRA_OPTS", "")
        include = shlex.quote(f"-I{root / 'include' / 'cccl'}")
        os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] = f"{options} {include}".strip()
    return set(numbers)


#: C source of the functions that libtvm_runtime_cuda.so imports from the driver; a test compares
#: them with the installed library. 100 is CUDA_ERROR_NO_DEVICE. Callers use the error texts without
#: checking the result.
DRIVER_STUB = """
#define FAILS(name) int name(void) { return 100; }
#define TEXT(name) int name(int e, const char **text) { *text = "no CUDA driver"; return 0; }
FAILS(cuDeviceGetName) FAILS(cuFuncSetAttribute) TEXT(cuGetErrorName) TEXT(cuGetErrorString)
FAILS(cuLaunchKernelEx) FAILS(cuModuleGetFunction) FAILS(cuModuleLoadData)
FAILS(cuModuleUnload) FAILS(cuTensorMapEncodeTiled)
"""


def _load_driver_stub() -> None:
    """Compiles and loads a driver whose functions all fail. Raises `ToolchainError`.

    Each process compiles it anew, which takes 30 ms.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("gcc") or "cc"]
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        stub = f"{folder}/libcuda.so.1"
        compiler += ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", stub, "-xc", "-"]
        try:
            subprocess.run(compiler, input=DRIVER_STUB, text=True, check=True, capture_output=True)
            ctypes.CDLL(stub, ctypes.RTLD_GLOBAL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ToolchainError(
                "no NVIDIA driver here, and no stand-in for it could be compiled",
                note=str(getattr(error, "stderr", "") or error).strip(),
                hint="install gcc, or set CC to a C compiler that works",
            ) from error

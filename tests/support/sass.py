"""The machine instructions (SASS) of built kernels, read by NVIDIA's cuobjdump; needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from tvmconv.compiler.cubins import find_cubins


def available() -> bool:
    """Whether cuobjdump, and the nvdisasm that it calls, can be found."""
    return _tool("cuobjdump") is not None and _tool("nvdisasm") is not None


def kernels(path: Path | str) -> dict[str, str]:
    """Kernel name to SASS text, of an exported library, a fat binary or a cubin.

    A C++ kernel goes by its mangled name. The file must hold code for one architecture: cuobjdump
    itself finds none in TVM's libraries, so each cubin is taken out and shown to it.
    """
    by_arch = find_cubins(path)
    assert len(by_arch) == 1, f"{path}: wanted code for one architecture, found {list(by_arch)}"
    texts: dict[str, str] = {}
    for cubin in next(iter(by_arch.values())):
        # ["...", name, text, name, text, ...]
        _, *parts = re.split(r"^\s*Function : (\S+)\n", _disassemble(cubin), flags=re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            assert name not in texts, f"{path}: two kernels are called {name}"
            texts[name] = text
    return texts


def _disassemble(cubin: bytes) -> str:
    cuobjdump, nvdisasm = _tool("cuobjdump"), _tool("nvdisasm")
    assert cuobjdump is not None, "install nvidia-cuda-cuobjdump"
    assert nvdisasm is not None, "install nvidia-cuda-nvdisasm"
    search = f"{nvdisasm.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.cubin")
        file.write_bytes(cubin)
        command = [str(cuobjdump), "-sass", str(file)]
        done = subprocess.run(
            command, env={**os.environ, "PATH": search}, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, f"cuobjdump: {done.stdout}{done.stderr}"
    return done.stdout


def _tool(name: str) -> Path | None:
    """The executable ``name``, from its wheel ``nvidia-cuda-<name>`` or from PATH."""
    try:
        for file in metadata.files(f"nvidia-cuda-{name}") or ():
            if file.name == name:
                return Path(str(file.locate()))
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which(name)
    return Path(found) if found else None

"""The device that a network was built for, if this machine has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tvm

from tvmconv.errors import TargetError
from tvmconv.runtime import gpu


def find_device(target: str, arch: str, features: Sequence[str]) -> Any:
    """Returns TVM's device for a network built for `target` and `arch`: the CPU or GPU 0.

    features: vector extensions that the code for a CPU uses. Raises `TargetError` if this machine
    has no device that runs the code.
    """
    if target != "cuda":
        missing = sorted(set(features) - set(cpu_features()))
        if missing:
            raise TargetError(
                f"a network built for {arch} can't be run on this CPU",
                note=f"its code relies on {', '.join(missing)} and would crash here",
                hint="build it on this machine, or with an arch that both have",
            )
        return tvm.cpu()
    # Also loads TVM's CUDA runtime, where `import tvm` could not.
    here = gpu.detect_arch()
    if here is None:
        raise TargetError(
            f"a network built for {arch} can't be run here: there is no NVIDIA GPU",
            hint='build it with target="llvm" to run it on the CPU by emulation',
            shell="build it with --target llvm to run it on the CPU by emulation",
        )
    if not gpu.runs_on(arch, here):
        raise TargetError(
            f"a network built for {arch} can't be run on this GPU, which is {here}",
            note="machine code runs on its own generation, from its own revision on",
            hint=f'build it with arch="{here}"',
            shell=f"build it with --arch {here}",
        )
    return tvm.cuda(0)


def cpu_features() -> tuple[str, ...]:
    """Vector extensions of this CPU, named as by `vector_features`; empty except on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return vector_features(flags)


def vector_features(names: Iterable[str]) -> tuple[str, ...]:
    """Selects vector extensions among CPU features; Linux's and LLVM's names become alike."""
    plain = {name.replace("_", "").replace("-", "").replace(".", "") for name in names}
    return tuple(sorted(name for name in plain if name.startswith(("avx", "fma", "f16c", "amx"))))

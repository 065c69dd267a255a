"""Networks for a CPU compiled by LLVM at level 0, in half the time; they compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tvm

from tvmconv.passes import pipeline

_tvm_target = pipeline.tvm_target


def _target(kind: str, arch: str) -> tvm.target.Target:
    """That of `pipeline`, for ``llvm`` with its optimisation off."""
    if kind == "cuda":
        return _tvm_target(kind, arch)
    return tvm.target.Target({"kind": "llvm", "mcpu": arch, "opt-level": 0})


@contextmanager
def llvm() -> Iterator[None]:
    """`tvmconv.build` in this process leaves LLVM's optimisation out, until the context ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "tvm_target", _target)
        yield

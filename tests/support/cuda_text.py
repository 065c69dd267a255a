"""Builds for CUDA up to the text of the kernels: quick, and without a CUDA compiler."""

from __future__ import annotations

from typing import Any

import pytest
from tvm.support import nvcc

from tvmconv.compiler import cubins, toolchain


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes builds for CUDA end with the text of their kernels. Returns a list that the text of
    each module is appended to."""
    texts: list[str] = []

    def compile_cuda(code: str, **_: Any) -> bytes:
        texts.append(code)
        return b"no machine code"

    monkeypatch.setattr(nvcc, "compile_cuda", compile_cuda)
    monkeypatch.setattr(cubins, "require_cubin", lambda *_: None)
    monkeypatch.setattr(
        toolchain, "_choose_compiler", lambda: ("nvcc", {int(a.sm) for a in toolchain.CUDA_ARCHS})
    )
    return texts

"""Networks in other precisions than fp16, through the whole of `build`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvmconv
from benchmarks.zoo import zoo
from tests.support import sass
from tests.support.models import Graph
from tvmconv.errors import TvmconvError

#: Relative l2 of ResNet-18 in bf16: its unit roundoff is eight times fp16's.
BOUND = 2e-2


def small() -> onnx.ModelProto:
    g = Graph([1, 16, 14, 14])
    y = g.op("Relu", g.conv("input", 16, 32))
    y = g.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    return g.model(g.conv(y, 32, 24, 1))


def test_bf16_on_llvm(tmp_path: Path) -> None:
    """Right, also out of a file, and with a pool that reads bf16."""
    model = small()
    exe = tvmconv.build(model, target="llvm", precision="bf16")
    assert all("bfloat16" in w for conv in exe.report.convs for w in conv.workloads)
    x = np.random.default_rng(0).standard_normal((1, 16, 14, 14), np.float32)
    assert tvmconv.compare(model, exe).relative_l2 < BOUND
    exe.save(tmp_path / "x.tvmconv")
    np.testing.assert_array_equal(tvmconv.load(tmp_path / "x.tvmconv")(x), exe(x))


@pytest.mark.slow
def test_resnet18_in_bf16_on_llvm() -> None:
    model = zoo.load("resnet18")
    exe = tvmconv.build(model, target="llvm", batch=1, precision="bf16")
    assert exe.report.tensorized == 20
    assert tvmconv.compare(model, exe).relative_l2 < BOUND


@pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_bf16_is_hmma_of_bf16_on_ampere(tmp_path: Path) -> None:
    exe = tvmconv.build(small(), arch="sm_80", precision="bf16")
    (tmp_path / "code.so").write_bytes(exe.entries[0].code)
    text = "".join(sass.kernels(tmp_path / "code.so").values())
    assert set(re.findall(r"HMMA[.\w]*", text)) == {"HMMA.16816.F32.BF16"}


def test_a_precision_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(TvmconvError, match="no precision 'fp64'") as error:
        tvmconv.inspect(small(), precision="fp64")
    assert "fp16, bf16" in str(error.value)

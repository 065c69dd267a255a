"""ResNet-18 for every architecture with no GPU, down to the HMMA in its machine code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tvmconv
from benchmarks import zoo
from tests import sass
from tests.fetched import downloaded
from tests.models import Graph, residual_net
from tvmconv import toolchain
from tvmconv.errors import TargetError

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
needs_cuobjdump = pytest.mark.skipif(not sass.available(), reason="needs cuobjdump and nvdisasm")


def machine_code(exe: tvmconv.Executable, folder: Path) -> dict[str, str]:
    path = folder / "code.so"
    path.write_bytes(exe.code)
    toolchain.require_cubin(path, exe.arch)
    return sass.kernels(path)


def check_kernels(exe: tvmconv.Executable, kernels: dict[str, str], arch: str) -> None:
    """Every convolution kernel that claims tensor cores has HMMA, and copies as its config says."""
    tensorized = re.compile("conv_(wmma|few_channels)")
    claimed = {name: text for name, text in kernels.items() if tensorized.search(name)}
    workloads = {one for conv in exe.report.convs if conv.tensor_core for one in conv.workloads}
    assert len(claimed) == len(workloads)
    for name, text in claimed.items():
        assert "HMMA" in text, f"{name} has no HMMA"
    asynchronous = any("cp.async" in conv.config for conv in exe.report.convs)
    assert asynchronous == (toolchain.cuda_arch(arch).sm >= 80)
    assert any("LDGSTS" in text for text in claimed.values()) == asynchronous
    for name, text in kernels.items():
        if name not in claimed:
            assert not re.search(r"\bHMMA\b", text), f"{name} uses tensor cores unannounced"


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize(
    "arch",
    ["sm_75", *(pytest.param(f"sm_{n}", marks=pytest.mark.slow) for n in (80, 86, 89)), "sm_90"],
)
def test_resnet18(arch: str, tmp_path: Path) -> None:
    exe = tvmconv.build(zoo.load("resnet18"), target="cuda", arch=arch, batch=1)
    assert exe.report.tensorized == len(exe.report.convolutions) == 20
    check_kernels(exe, machine_code(exe, tmp_path), arch)


@pytest.mark.slow
@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("name", zoo.names())
def test_every_network_of_the_zoo(name: str, tmp_path: Path) -> None:
    exe = tvmconv.build(downloaded(lambda: zoo.load(name)), target="cuda", arch="sm_90", batch=1)
    assert any("HMMA" in text for text in machine_code(exe, tmp_path).values())


@needs_nvcc
@needs_cuobjdump
def test_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_PACK", "1")
    exe = tvmconv.build(residual_net(16), target="cuda", arch="sm_90")
    assert "wmma_packed" in {conv.family for conv in exe.report.convs}
    check_kernels(exe, machine_code(exe, tmp_path), "sm_90")


@needs_nvcc
def test_all_between_input_and_output_is_one_cuda_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first kernel reads the input and the last writes the output, which move."""
    monkeypatch.setenv("TVMCONV_DUMP", str(tmp_path))
    tvmconv.build(residual_net(1), target="cuda", arch="sm_90")
    (path,) = tmp_path.glob("*_RewriteCUDAGraph.py")
    functions = dict(re.findall(r"    def (\w+)\((.*?)(?=\n    def |\Z)", path.read_text(), re.S))
    (arena,) = re.findall(r"alloc_storage\(R.shape\(\[(\d+)\]\)", functions["cuda_graph_alloc"])
    offsets = re.findall(r"alloc_tensor\(\w+, (\d+), ", path.read_text())
    assert len(set(offsets)) > 1
    assert all(int(offset) % 256 == 0 and int(offset) < int(arena) for offset in offsets)
    captured = [text for name, text in functions.items() if "cuda_graph_capture" in name]
    assert len(captured) == 1
    assert captured[0].count("cls.conv_wmma") == 6, "five convolutions and the classifier"
    kernels = re.findall(r"        cls\.(\w+)\(", functions["main"])
    assert len(kernels) == 2


@needs_nvcc
@needs_cuobjdump
def test_buckets_share_weights(tmp_path: Path) -> None:
    """Of channels for which the tiles of the two batches are as wide as not."""
    g = Graph(["batch", 32, 28, 28])
    x = g.op("Relu", g.conv("input", 32, 96, 1))
    exe = tvmconv.build(g.model(g.conv(x, 96, 144, 1)), target="cuda", arch="sm_90", batch=[1, 128])
    tiles = [{conv.config for conv in one.convs} for one in (*exe.report.smaller, exe.report)]
    assert not tiles[0] & tiles[1]
    assert exe.report.stored_weight_bytes == exe.report.weight_bytes
    for batch in exe.batches:
        one = exe.bucket(batch)
        check_kernels(one, machine_code(one, tmp_path), "sm_90")


@needs_nvcc
def test_running_without_a_gpu_is_refused() -> None:
    if toolchain.detect_arch() is not None:
        pytest.skip("there is a GPU")
    exe = tvmconv.build(residual_net(1), target="cuda", arch="sm_90")
    with pytest.raises(TargetError, match="no NVIDIA GPU"):
        exe.run({"input": np.zeros((1, 3, 12, 12), "float32")})

"""Networks for every architecture with no GPU, down to the HMMA in their machine code."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tvmconv
from benchmarks.zoo import zoo
from tests.support import cuda_text, sass
from tests.support.fetched import downloaded
from tests.support.models import Graph, residual_net
from tests.support.thinned import thinned
from tvmconv.compiler import cubins, toolchain
from tvmconv.errors import TargetError
from tvmconv.runtime import gpu

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
needs_cuobjdump = pytest.mark.skipif(not sass.available(), reason="needs cuobjdump and nvdisasm")


#: Kernels of the families that use tensor cores.
CLAIMS = re.compile(r"conv_(?:wmma|mma_sync|few_channels|depthwise_projection)")


@functools.cache
def built(arch: str) -> tvmconv.Executable:
    """A small network that several tests look into."""
    return tvmconv.build(residual_net(1), target="cuda", arch=arch)


def machine_code(exe: tvmconv.Executable, folder: Path) -> dict[str, str]:
    path = folder / "code.so"
    path.write_bytes(exe.code)
    cubins.require_cubin(path, exe.arch)
    return sass.kernels(path)


def check_kernels(exe: tvmconv.Executable, kernels: dict[str, str], arch: str) -> None:
    """Every convolution kernel that claims tensor cores has HMMA, and copies as its config says."""
    claimed = {name: text for name, text in kernels.items() if CLAIMS.search(name)}
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
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_86", "sm_90"])
def test_a_small_network(arch: str, tmp_path: Path) -> None:
    check_kernels(built(arch), machine_code(built(arch), tmp_path), arch)


@pytest.mark.slow
@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"])
def test_resnet18(arch: str, tmp_path: Path) -> None:
    exe = tvmconv.build(zoo.load("resnet18"), target="cuda", arch=arch, batch=1)
    assert exe.report.tensorized == len(exe.report.convolutions) == 20
    check_kernels(exe, machine_code(exe, tmp_path), arch)


#: SASS that reads or writes global memory, and what griddepcontrol.wait is in it.
GLOBAL = re.compile(r"\b(LDG|STG|LDGSTS|LD|ST|RED|ATOM|ATOMG|UTMA\w*)\b")
WAIT = "ACQBULK"


@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("arch", thinned(["sm_90", "sm_86"], 2))
def test_launched_early_a_kernel_first_waits(arch: str, tmp_path: Path) -> None:
    exe = built(arch)
    kernels = machine_code(exe, tmp_path)
    early = toolchain.cuda_arch(arch).sm >= 90
    assert exe.code.count(b"tirx.use_programtic_dependent_launch") == early * len(kernels)
    for name, text in kernels.items():
        instructions = re.findall(r"/\*[0-9a-f]{4,}\*/ +(.*?);", text)
        waits = [i for i, one in enumerate(instructions) if WAIT in one]
        touches = [i for i, one in enumerate(instructions) if GLOBAL.search(one)]
        branches = [i for i, one in enumerate(instructions) if re.search(r"\b(BRA|EXIT)\b", one)]
        assert len(waits) == early, name
        assert touches, name
        if early:  # nothing can go around it, and nothing comes before it
            assert waits[0] < min(*touches, *branches), name


@pytest.mark.slow
@needs_nvcc
@needs_cuobjdump
@pytest.mark.parametrize("name", zoo.names())
def test_every_network_of_the_zoo(name: str, tmp_path: Path) -> None:
    exe = tvmconv.build(downloaded(lambda: zoo.load(name)), target="cuda", arch="sm_90", batch=1)
    assert any("HMMA" in text for text in machine_code(exe, tmp_path).values())


@needs_nvcc
@needs_cuobjdump
def test_packed(tmp_path: Path) -> None:
    exe = tvmconv.build(residual_net(16), target="cuda", arch="sm_90", layout="packed")
    assert "wmma_packed" in {conv.family for conv in exe.report.convs}
    check_kernels(exe, machine_code(exe, tmp_path), "sm_90")


def test_all_between_input_and_output_is_one_cuda_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first kernel reads the input and the last writes the output, which move."""
    cuda_text.without_compiler(monkeypatch)
    monkeypatch.setenv("TVMCONV_DUMP", str(tmp_path))
    tvmconv.build(residual_net(1), target="cuda", arch="sm_90")
    (path,) = tmp_path.glob("*_bindable.py")
    functions = dict(re.findall(r"    def (\w+)\((.*?)(?=\n    def |\Z)", path.read_text(), re.S))
    (arena,) = re.findall(r"alloc_storage\(R.shape\(\[(\d+)\]\)", functions["cuda_graph_alloc"])
    offsets = re.findall(r"alloc_tensor\(\w+, (\d+), ", path.read_text())
    assert len(set(offsets)) > 1
    assert all(int(offset) % 256 == 0 and int(offset) < int(arena) for offset in offsets)
    captured = [text for name, text in functions.items() if "cuda_graph_capture" in name]
    assert len(captured) == 1
    convolutions = re.compile(rf"cls\.{CLAIMS.pattern}")
    assert len(convolutions.findall(captured[0])) == 5, "all but the classifier"
    kernels = re.findall(r"        cls\.(\w+)\(", functions["main"])
    assert len(kernels) == 2
    assert CLAIMS.match(kernels[1]), "the classifier, which writes the output itself"
    # Who captures the other whole holds all that it writes.
    bound = functions["bound"]
    assert len(convolutions.findall(bound)) == 6
    assert f'alloc_tensor(arena, 0, R.shape([{arena}]), R.dtype("uint8")' in bound
    assert re.search(r"= \w+, arena_bytes\n        return kept", bound)


@needs_nvcc
@needs_cuobjdump
@pytest.mark.slow
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
    if gpu.detect_arch() is not None:
        pytest.skip("there is a GPU")
    exe = built("sm_90")
    with pytest.raises(TargetError, match="no NVIDIA GPU"):
        exe.run({"input": np.zeros((1, 3, 12, 12), "float32")})


#: What gives one number, and what is done with it.
ONE_NUMBER = {
    "a mean": ["ReduceMean"],
    "the root of a mean": ["ReduceMean", "Sqrt"],
    "the root of a sum of squares": ["ReduceSumSquare", "Sqrt"],
    "the largest of all, scaled": ["ReduceMax", "Neg"],
}


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_a_reduction_of_all_elements(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    g = Graph([1, 3, 9, 7])
    reduction, *after = ONE_NUMBER[name]
    x = g.op(reduction, g.op("Relu", "input"), keepdims=0)
    for operator in after:
        x = g.op(operator, x)
    tvmconv.build(g.model(x, x), target="cuda", arch="sm_90a")
    assert "__shfl" in texts[0]

"""tvmconv.compiler.toolchain: machine code comes out of TVM here, and its absence is noticed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm import s_tir, te
from tvm.libinfo import package_lib_paths

from tests.support import sass
from tests.support.thinned import thinned
from tvmconv.compiler import cubins, toolchain
from tvmconv.errors import TargetError, ToolchainError
from tvmconv.runtime import gpu

ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
# Asked while tests are collected: once a test has loaded the stub, there seems to be a driver.
HAS_DRIVER = gpu.loads("libcuda.so.1")
needs_no_driver = pytest.mark.skipif(HAS_DRIVER, reason="there is an NVIDIA driver")
needs_sass = pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm")

WMMA = """
#include <mma.h>
using namespace nvcuda::wmma;
extern "C" __global__ void multiply(const half *a, const half *b, float *c) {
  fragment<matrix_a, 16, 16, 16, half, row_major> fa;
  fragment<matrix_b, 16, 16, 16, half, row_major> fb;
  fragment<accumulator, 16, 16, 16, float> fc;
  fill_fragment(fc, 0.0f);
  load_matrix_sync(fa, a, 16);
  load_matrix_sync(fb, b, 16);
  mma_sync(fc, fa, fb, fc);
  store_matrix_sync(c, fc, 16, mem_row_major);
}
"""


def double() -> Any:
    """A module with one kernel, ``double_kernel``: one block of 128 threads."""
    a = te.placeholder((128,), "float32", name="a")
    b = te.compute((128,), lambda i: a[i] * 2.0, name="b")
    schedule = s_tir.Schedule(te.create_prim_func([a, b]).with_attr("global_symbol", "double"))
    schedule.bind(schedule.get_loops("b")[0], "threadIdx.x")
    return schedule.mod


def build(arch: str, path: Path) -> str:
    """Build ``double`` for ``arch`` into the library ``path``. Returns the compiler's name."""
    mode = toolchain.prepare_cuda(arch)
    target = tvm.target.Target({"kind": "cuda", "arch": arch}, host={"kind": "llvm"})
    with target:
        tvm.compile(double(), target=target).export_library(str(path))
    return mode


def run_python(code: str, **variables: str) -> str:
    """Run ``code`` in a process of its own, with nothing imported or loaded. Returns stdout."""
    variables.setdefault("PYTHONPATH", os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TVM_CUDA_COMPILE_MODE": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- architectures


def test_archs_are_consistent() -> None:
    for arch in toolchain.CUDA_ARCHS:
        assert toolchain.cuda_arch(arch.name) is arch
        assert re.fullmatch(rf"sm_{arch.sm}[af]?", arch.name)
        assert 48 * 1024 < arch.limits.block_shared < 256 * 1024
    assert not toolchain.cuda_arch("sm_75").has_cp_async
    assert toolchain.cuda_arch("sm_80").has_cp_async


@pytest.mark.parametrize("name", ["sm90", "SM_90", "90", "9.0", "compute_90", " sm_90 "])
def test_near_miss_of_an_arch_name_is_hinted_at(name: str) -> None:
    with pytest.raises(TargetError, match=r"did you mean 'sm_90'\?"):
        toolchain.cuda_arch(name)


@pytest.mark.parametrize("name", ["", "sm_", "sm_999", "gfx90a", "llvm"])
def test_unknown_arch_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError, match="sm_75, sm_80") as caught:
        toolchain.cuda_arch(name)
    assert "did you mean" not in str(caught.value)


# --- preparing


def test_stub_has_the_symbols_tvm_wants() -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    library = next(
        path
        for folder in package_lib_paths()
        if (path := folder / "libtvm_runtime_cuda.so").is_file()
    )
    command = ["nm", "-D", "--undefined-only", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = set(re.findall(r" U (cu[A-Z]\w*)", listing))
    assert set(re.findall(r"\((cu[A-Z]\w*)\)", toolchain.DRIVER_STUB)) == wanted


@needs_nvcc
def test_prepare_can_be_called_again_and_from_threads() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
import os
from tvmconv.compiler.toolchain import prepare_cuda
from tvmconv.runtime.gpu import detect_arch
before = detect_arch()
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(lambda _: prepare_cuda(), range(8))), detect_arch() == before,
          os.environ["TVM_CUDA_COMPILE_MODE"])
"""
    assert run_python(code) == "{'nvcc'} True nvcc"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": "/nowhere", "CUDA_HOME": "/nowhere"}, "no CUDA compiler was found"),
        ({"TVM_CUDA_COMPILE_MODE": "clang"}, "TVM_CUDA_COMPILE_MODE is 'clang'"),
        ({"PATH": "/nowhere", "TVM_CUDA_COMPILE_MODE": "nvcc"}, "asks for nvcc alone"),
        pytest.param(
            {"CC": "/nowhere/cc"},
            "no stand-in for it could be compiled",
            marks=[needs_nvcc, needs_no_driver],
        ),
    ],
)
def test_what_is_missing_is_named(variables: dict[str, str], message: str) -> None:
    code = """
from tvmconv.errors import ToolchainError
import sys
sys.modules["cuda.bindings.nvrtc"] = None  # as where the cuda extra is not installed
from tvmconv.compiler.toolchain import prepare_cuda
try:
    prepare_cuda()
except ToolchainError as error:
    print(error)
"""
    text = run_python(code, **{"CUDA_HOME": "/nowhere", **variables})
    assert message in text
    assert "Hint: " in text


@needs_nvcc
@needs_no_driver
def test_driver_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    """A library called as the driver is found by the loader; then no compiler is asked for one."""
    command = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), "-xc", "-"]
    subprocess.run(command, input=toolchain.DRIVER_STUB, text=True, check=True)
    code = """
from tvmconv.compiler.toolchain import prepare_cuda
from tvmconv.runtime.gpu import detect_arch
print(prepare_cuda(), detect_arch())
"""
    folders = f"{tmp_path}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
    assert run_python(code, LD_LIBRARY_PATH=folders, CC="/nowhere/cc") == "nvcc None"


def test_arch_that_the_compiler_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_choose_compiler", lambda: ("nvcc", {75, 90}))
    with pytest.raises(TargetError, match=r"\(nvcc\) cannot compile for sm_70") as caught:
        toolchain.prepare_cuda("sm_70")
    assert "sm_75, sm_90" in caught.value.note


# --- looking into the result


@needs_nvcc
@pytest.mark.parametrize("arch", thinned(ARCHS, 3))
def test_built_library_holds_code_for_its_arch(arch: str, tmp_path: Path) -> None:
    library = tmp_path / "double.so"
    assert build(arch, library) == "nvcc"
    chip = arch.rstrip("a")
    assert list(cubins.find_cubins(library)) == [chip]
    cubins.require_cubin(library, arch)
    other = "sm_80" if chip == "sm_75" else "sm_75"
    with pytest.raises(ToolchainError, match=f"no machine code for {other}") as caught:
        cubins.require_cubin(library, other)
    assert chip in caught.value.note
    if sass.available():
        assert "FADD" in sass.kernels(library)["double_kernel"]


@needs_no_driver
def test_library_of_source_text_is_refused(tmp_path: Path) -> None:
    """What `tvm.compile` gives where TVM's CUDA runtime is not loaded: no error, no code."""
    library = tmp_path / "double.so"
    code = f"""
from pathlib import Path
from tests.tvmconv.compiler import test_toolchain as t
from tests.support.thinned import thinned
t.toolchain.prepare_cuda = lambda arch: ""
t.build("sm_90", Path({str(library)!r}))
"""
    run_python(code)
    assert b"__global__" in library.read_bytes()
    with pytest.raises(ToolchainError, match=r"double\.so has no machine code for sm_90"):
        cubins.require_cubin(library, "sm_90")


def nvcc(folder: Path, output: str, *options: str) -> Path:
    """Compile WMMA outside TVM. Returns the path of ``output``."""
    source = folder / "wmma.cu"
    source.write_text(WMMA)
    command = ["nvcc", *options, "-o", str(folder / output), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / output


@needs_nvcc
def test_cubins_are_cut_out_whole(tmp_path: Path) -> None:
    cubin = nvcc(tmp_path, "wmma.cubin", "--cubin", "-arch=sm_80").read_bytes()
    file = tmp_path / "any"
    file.write_bytes(b"\x7fELF\x02\x01" + bytes(99) + cubin + b"\x7fELF\x02\x01 end" + cubin[:-1])
    assert cubins.find_cubins(file) == {"sm_80": [cubin]}


@needs_nvcc
def test_ptx_is_no_machine_code(tmp_path: Path) -> None:
    fatbin = nvcc(tmp_path, "wmma.fatbin", "--fatbin", "-gencode=arch=compute_80,code=compute_80")
    assert cubins.find_cubins(fatbin) == {}


@pytest.mark.parametrize(
    ("abi", "flags", "arch"),
    [
        (7, 0x460546, "sm_70"),
        (7, 0x5A0D5A, "sm_90"),
        (8, 0x6004B04, "sm_75"),
        (8, 0x6007802, "sm_120"),
    ],
)
def test_arch_in_the_headers_that_compilers_write(
    abi: int, flags: int, arch: str, tmp_path: Path
) -> None:
    """Flags as seen from NVRTC 12.9 (ABI 7; sm_70, sm_90a) and nvcc 13.0 (ABI 8)."""
    header: list[Any] = [abi, 190, 0, 0, flags, 56, 0, 64, 0]
    image = bytearray(cubins._ELF_HEADER.pack(*header))
    image[:6] = b"\x7fELF\x02\x01"
    (tmp_path / "cubin").write_bytes(image)
    assert list(cubins.find_cubins(tmp_path / "cubin")) == [arch]


@needs_nvcc
@needs_sass
def test_sass_shows_the_tensor_core(tmp_path: Path) -> None:
    cubin = nvcc(tmp_path, "wmma.cubin", "--cubin", "-arch=sm_90")
    assert "HMMA.16816.F32" in sass.kernels(cubin)["multiply"]

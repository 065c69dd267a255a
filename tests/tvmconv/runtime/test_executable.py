"""Feeding, running, saving and loading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tvm

import tvmconv
from tests.support.models import Graph, random_feed, residual_net
from tvmconv.errors import ArtifactError, FeedError, TargetError
from tvmconv.runtime import artifact
from tvmconv.runtime.device import cpu_features

ROOT = str(Path(__file__).parents[3])
FEEDS = random_feed((1, 3, 12, 12))


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net(1), target="llvm")


@pytest.fixture
def saved(exe: tvmconv.Executable, tmp_path: Path) -> Path:
    path = tmp_path / "network.tvmconv"
    exe.save(path)
    return path


def test_call_and_run_agree(exe: tvmconv.Executable) -> None:
    assert np.array_equal(exe(FEEDS["input"]), exe.run(FEEDS)["output"])


def test_runs_are_repeatable(exe: tvmconv.Executable) -> None:
    first = exe.run(FEEDS)["output"].copy()
    exe.run(random_feed((1, 3, 12, 12), seed=5))
    assert np.array_equal(first, exe.run(FEEDS)["output"])


def test_dlpack_in_dlpack_out(exe: tvmconv.Executable) -> None:
    result = exe.run({"input": tvm.runtime.tensor(FEEDS["input"])})["output"]
    assert isinstance(result, tvm.runtime.Tensor)
    assert np.array_equal(np.from_dlpack(result), exe.run(FEEDS)["output"])


def test_array_that_is_not_contiguous(exe: tvmconv.Executable) -> None:
    turned = np.ascontiguousarray(FEEDS["input"].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert np.array_equal(exe(turned), exe(FEEDS["input"]))


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "fed []"),
        ({"image": FEEDS["input"]}, "'image'"),
        ({**FEEDS, "more": FEEDS["input"]}, "'more'"),
        ({"input": FEEDS["input"].astype("float64")}, "got float64[1, 3, 12, 12], expected"),
        ({"input": FEEDS["input"][0]}, "got float32[3, 12, 12], expected float32[1, 3, 12, 12]"),
        ({"input": np.zeros((2, 3, 12, 12), "f")}, "got float32[2, 3, 12, 12]"),
        ({"input": [[1.0]]}, "got a list"),
        ({"input": None}, "got a NoneType"),
        (None, "not a NoneType"),
        (FEEDS["input"], "not a ndarray"),
    ],
)
def test_bad_feeds(exe: tvmconv.Executable, feeds: dict[str, object], says: str) -> None:
    with pytest.raises(FeedError) as error:
        exe.run(feeds)
    assert says in str(error.value)


def test_call_needs_one_input_and_one_output() -> None:
    g = Graph([1, 8, 6, 6])
    x = g.conv("input", 8, 8)
    both = tvmconv.build(g.model(x, g.op("Relu", x)), target="llvm")
    with pytest.raises(FeedError, match="2 outputs"):
        both(random_feed((1, 8, 6, 6))["input"])


def test_load_gives_the_same_network(exe: tvmconv.Executable, saved: Path) -> None:
    loaded = tvmconv.load(saved)
    assert np.array_equal(loaded(FEEDS["input"]), exe(FEEDS["input"]))
    assert loaded.report == exe.report
    assert loaded.inputs == exe.inputs
    assert repr(loaded) == repr(exe)


def test_code_and_weights_lie_apart(exe: tvmconv.Executable, saved: Path) -> None:
    with zipfile.ZipFile(saved) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
        code = file.read("code/0000.so")
    assert sum(name.startswith("weights/") for name in sizes) == len(exe.weights)
    # The largest weight is nowhere in the code.
    largest = max(exe.weights, key=lambda array: array.nbytes)
    assert largest.tobytes() not in code


def test_two_networks_in_one_process(exe: tvmconv.Executable, saved: Path) -> None:
    other = tvmconv.build(residual_net(2), target="llvm")
    both = np.concatenate([FEEDS["input"]] * 2)
    assert np.allclose(other(both)[:1], tvmconv.load(saved)(FEEDS["input"]), atol=1e-2)
    assert other(both).shape == (2, 10)


DAMAGES = ("text", "truncated", "empty", "missing", "format", "manifest", "entries", "number")


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_files(saved: Path, damage: str) -> None:
    data = saved.read_bytes()
    stored = artifact.read(saved)
    if damage == "format":
        changed = artifact.Artifact({**stored.manifest, "format": 99}, (), ())
        artifact.write(changed, saved)
    elif damage == "manifest":
        artifact.write(artifact.Artifact({"target": "llvm"}, (), ()), saved)
    elif damage == "entries":
        changed = artifact.Artifact({**stored.manifest, "entries": [], "codes": 0}, (), ())
        artifact.write(changed, saved)
    elif damage == "number":
        (entry,) = stored.manifest["entries"]
        entry["weights"][0] = len(stored.weights)
        artifact.write(stored, saved)
    elif damage == "missing":
        saved.unlink()
    else:
        saved.write_bytes({"text": b"hello", "truncated": data[:-900], "empty": b""}[damage])
    with pytest.raises(ArtifactError) as error:
        tvmconv.load(saved)
    assert str(saved) in str(error.value)


def test_a_file_of_the_first_format_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "old"
    with zipfile.ZipFile(old, "w") as file:
        file.writestr("manifest.json", json.dumps({"format": 1, "weights": 0, "target": "llvm"}))
        file.writestr("code.so", b"")
    with pytest.raises(ArtifactError, match=r"has format 1, this version reads 3 to 5\n.*build"):
        tvmconv.load(old)


def test_other_cpu_is_refused(saved: Path) -> None:
    stored = artifact.read(saved)
    manifest = {**stored.manifest, "features": ["avx9000"]}
    artifact.write(artifact.Artifact(manifest, stored.codes, stored.weights), saved)
    with pytest.raises(TargetError, match="avx9000"):
        tvmconv.load(saved).run(FEEDS)


def test_code_for_another_cpu_is_not_run_here() -> None:
    exe = tvmconv.build(residual_net(1), target="llvm", arch="diamondrapids")
    if set(exe.features) <= set(cpu_features()):
        pytest.skip("this is such a CPU")
    with pytest.raises(TargetError, match="amx"):
        exe.run(FEEDS)


def test_code_for_any_cpu_runs_here(tmp_path: Path) -> None:
    exe = tvmconv.build(residual_net(1), target="llvm", arch="x86-64-v3")
    exe.save(tmp_path / "plain")
    assert tvmconv.load(tmp_path / "plain").features == ("avx", "avx2", "f16c", "fma")
    assert np.isfinite(exe(FEEDS["input"])).all()


def test_code_that_is_none(saved: Path) -> None:
    stored = artifact.read(saved)
    artifact.write(artifact.Artifact(stored.manifest, (b"no library",), stored.weights), saved)
    with pytest.raises(ArtifactError, match="can't be loaded"):
        tvmconv.load(saved).run(FEEDS)


def test_threads_may_share_a_network(saved: Path) -> None:
    exe = tvmconv.load(saved)
    feeds = [random_feed((1, 3, 12, 12), seed) for seed in range(8)]
    expected = [tvmconv.load(saved).run(feed)["output"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lambda feed: exe.run(feed)["output"], feeds))
            assert all(map(np.array_equal, found, expected))


def test_threads_may_write_the_same_file(tmp_path: Path) -> None:
    """Whoever reads it meanwhile finds one that is whole."""
    weights = (np.arange(1 << 14, dtype="f"),)

    def write_and_read(number: int) -> int:
        artifact.write(artifact.Artifact({"number": number}, (), weights), tmp_path / "file")
        found = artifact.read(tmp_path / "file")
        assert np.array_equal(found.weights[0], weights[0])
        return found.manifest["number"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write_and_read, range(64))) <= set(range(64))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class Lent:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_dlpack_that_is_not_aligned_or_not_contiguous(exe: tvmconv.Executable) -> None:
    memory = np.zeros(1 + FEEDS["input"].size, "f")
    shifted = memory[1:].reshape(FEEDS["input"].shape)
    shifted[...] = FEEDS["input"]
    turned = np.ascontiguousarray(FEEDS["input"].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for array in (shifted, turned):
        result = exe.run({"input": Lent(array)})["output"]
        assert np.array_equal(np.from_dlpack(result), exe.run(FEEDS)["output"])


def test_executables_can_be_keys(exe: tvmconv.Executable, saved: Path) -> None:
    assert len({exe, tvmconv.load(saved)}) == 2


def test_save_where_there_is_no_folder(exe: tvmconv.Executable, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be written"):
        exe.save(tmp_path / "nowhere" / "network.tvmconv")


RUN_WITHOUT_COMPILER = """
import sys
import numpy, tvmconv
exe = tvmconv.load(sys.argv[1])
assert not any(name.startswith(("onnx", "tvm.relax")) for name in sys.modules), "needs too much"
assert "libtvm_compiler" not in open("/proc/self/maps").read(), "the compiler is loaded"
numpy.save(sys.argv[3], exe.run({"input": numpy.load(sys.argv[2])})["output"])
"""


def test_loading_needs_only_the_runtime(
    exe: tvmconv.Executable, saved: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", FEEDS["input"])
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_COMPILER, saved, tmp_path / "in.npy", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "1", "PYTHONPATH": ROOT},
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "out.npy"), exe.run(FEEDS)["output"])

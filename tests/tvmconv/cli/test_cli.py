"""Every command of `tvmconv`: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support import networks
from tests.support.calibrated import quantized
from tests.support.models import residual_net
from tests.support.shell import Command
from tvmconv.reports.data.comparison import BOUND, INT8_BOUND

LLVM = ("--target", "llvm", "--batch", "1")
QUICK = ("--warmup-ms", "1", "--min-runs", "3", "--min-seconds", "0.01")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, other.onnx with other answers, built: model.onnx for llvm, x.npy: an input."""
    folder = tmp_path_factory.mktemp("cli")
    onnx.save(networks.small(), folder / "model.onnx")
    onnx.save(networks.small(relu=False), folder / "other.onnx")
    tvmconv.build(folder / "model.onnx", target="llvm", batch=1).save(folder / "built")
    np.save(folder / "x.npy", np.random.default_rng(0).random((1, 3, 12, 12), np.float32))
    return folder


# --- what the commands do -------------------------------------------------------------------
def test_build_writes_what_load_reads_and_reports(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    done = command("build", folder / "model.onnx", "-o", tmp_path / "out", *LLVM, "--as", "sm_80")
    assert done.code == 0, done.err
    assert "as on an A100" in done.out
    assert "2 of 2 convolutions" in done.out
    assert f"wrote {tmp_path / 'out'}" in done.err
    assert tvmconv.load(tmp_path / "out").inputs[0].shape == (1, 3, 12, 12)


def test_build_takes_shapes(command: Command, folder: Path, tmp_path: Path) -> None:
    shape = ("--shape", "x:0=2,3,8,6")
    done = command(
        "build", folder / "model.onnx", "-o", tmp_path / "out", "--target", "llvm", *shape, "--json"
    )
    assert done.code == 0, done.err
    assert len(done.json["convs"]) == 2
    assert tvmconv.load(tmp_path / "out").inputs[0].shape == (2, 3, 8, 6)


def test_build_is_calibrated_on_a_folder(command: Command, folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    np.save(images / "dark", np.full((3, 12, 12), 1e-6, "f"))
    model, out = folder / "model.onnx", tmp_path / "out"
    done = command("build", model, "-o", out, *LLVM, "--calibrate", images, "--json")
    assert done.code == 0, done.err
    assert "x times 2**20" in done.json["convs"][0]["kept"]
    done = command("build", model, "-o", out, *LLVM, "--calibrate", tmp_path / "nowhere")
    assert done.code == 1
    assert "is no folder" in done.err


def test_inspect_reports_without_building(command: Command, folder: Path) -> None:
    done = command("inspect", folder / "model.onnx", *LLVM)
    assert done.code == 0, done.err
    assert "first" in done.out
    assert "built in" not in done.out
    assert "as on" not in done.out
    asked = command("inspect", folder / "model.onnx", *LLVM, "--as", "sm_90a")
    assert "as on an H200 (sm_90a)" in asked.out
    found = command("inspect", folder / "model.onnx", *LLVM, "--json").json
    assert [conv["name"] for conv in found["plan"]["convs"]] == ["first", "wide/y"]
    assert found["buildable"] is True
    assert {one["operator"]: one["count"] for one in found["operators"]}["Conv"] == 2
    assert (found["all"]["count"], found["suited"]["count"]) == (2, 1)


@pytest.mark.parametrize("what", ["built", "model.onnx"])
def test_run_writes_outputs_under_names_a_file_can_have(
    command: Command, folder: Path, tmp_path: Path, what: str
) -> None:
    options = LLVM if what == "model.onnx" else ()
    feed = f"x:0={folder / 'x.npy'}"
    done = command("run", folder / what, "--input", feed, "-o", tmp_path / "outputs", *options)
    assert done.code == 0, done.err
    assert "wide_y.npy" in done.out
    expected = tvmconv.load(folder / "built").run({"x:0": np.load(folder / "x.npy")})
    for name, file in (("wide/y", "wide_y.npy"), ("pooled", "pooled.npy")):
        np.testing.assert_array_equal(np.load(tmp_path / "outputs" / file), expected[name])


def test_run_needs_no_folder(command: Command, folder: Path) -> None:
    done = command("run", folder / "built", "--input", f"x:0={folder / 'x.npy'}", "--json")
    assert done.json["outputs"][1] == {"output": "pooled", "dtype": "float32", "shape": [1, 16]}


def test_compare_of_a_model_and_of_a_file(command: Command, folder: Path) -> None:
    feed = ("--input", f"x:0={folder / 'x.npy'}")
    built = command("compare", folder / "model.onnx", *feed, *LLVM, "--json")
    loaded = command("compare", folder / "model.onnx", folder / "built", *feed, "--json")
    assert built.code == loaded.code == 0
    assert built.json["outputs"] == loaded.json["outputs"]
    assert built.json["passed"] is True
    table = command("compare", folder / "model.onnx", folder / "built")
    assert "relative l2" in table.out


def test_compare_past_the_bound_fails(command: Command, folder: Path) -> None:
    done = command("compare", folder / "other.onnx", folder / "built")
    assert done.code == 1
    assert "failed" in done.err
    assert "wide/y" in done.out, "the table is printed all the same"
    done = command("compare", folder / "model.onnx", folder / "built", "--bound", "1e-9", "--json")
    assert done.code == 1
    assert done.json["passed"] is False


def test_the_bound_is_the_librarys(command: Command, folder: Path) -> None:
    done = command("compare", folder / "model.onnx", folder / "built", "--json")
    assert done.json["bound"] == BOUND
    told = command("compare", "--help").out
    assert f"{INT8_BOUND:g}" in told
    assert "5e-3" in told


def test_a_quantised_model_is_told_of_and_compared_with_the_bound_of_int8(
    command: Command, tmp_path: Path
) -> None:
    model = residual_net("batch", 16, 32)
    path = tmp_path / "model.int8.onnx"
    quantized(model).save(path)
    seen = command("inspect", path, *LLVM)
    assert "4 of 5 convolutions and 0 of 1 matrix products in int8" in seen.out
    assert "u8 x s8" in seen.out
    done = command("bench", path, *LLVM, *QUICK, "--json")
    assert done.code == 0, done.err
    assert 0 < done.json["relative_l2"] < INT8_BOUND
    done = command("compare", path, *LLVM, "--json")
    assert (done.code, done.json["bound"]) == (0, INT8_BOUND)


def test_bench_checks_a_model_before_timing_it(command: Command, folder: Path) -> None:
    done = command("bench", folder / "model.onnx", *LLVM, *QUICK, "--json")
    assert done.code == 0, done.err
    assert 0 < done.json["relative_l2"] < 5e-3
    assert done.json["compute"]["runs"] >= 3
    assert done.json["warmup_ms"] == 1


def test_bench_of_a_file_wants_it_checked(command: Command, folder: Path) -> None:
    done = command("bench", folder / "built", *QUICK)
    assert done.code == 1
    assert "--check model.onnx" in done.err
    done = command("bench", folder / "built", "--unchecked", *QUICK)
    assert "Warning: unchecked" in done.out
    done = command("bench", folder / "built", "--check", folder / "model.onnx", *QUICK)
    assert "unchecked" not in done.out
    assert "relative l2 error" in done.out


def test_bench_does_not_time_what_is_wrong(command: Command, folder: Path) -> None:
    done = command("bench", folder / "built", "--check", folder / "other.onnx", *QUICK)
    assert done.code == 1
    assert done.out == ""
    assert "Error: not timed" in done.err
    assert "wide/y" in done.err


# --- the zoo --------------------------------------------------------------------------------
@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo as pyproject.toml registers it, whether or not tvmconv is installed."""
    use_entries(monkeypatch, "benchmarks.zoo.zoo")


def use_entries(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    def entry_points(group: str) -> list[metadata.EntryPoint]:
        assert group == "tvmconv.zoo"
        return [metadata.EntryPoint("benchmarks", module, group) for module in modules]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_pyproject_registers_the_zoo() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '[project.entry-points."tvmconv.zoo"]\nbenchmarks = "benchmarks.zoo.zoo"\n' in text


@pytest.mark.usefixtures("registered")
def test_zoo_lists_networks(command: Command) -> None:
    assert "resnet50" in command("zoo").out
    listed = {entry["name"]: entry for entry in command("zoo", "--json").json}
    assert listed["resnet18"]["parameters"] == 11_689_512
    assert listed["opennsfw"]["input_name"] == "input:0"


@pytest.mark.usefixtures("registered")
def test_zoo_writes_a_network(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("zoo", "mobilenet_v2").code == 0
    assert command("zoo", "mobilenet_v2", "-o", "named").code == 0
    onnx.checker.check_model("mobilenet_v2.onnx")
    assert Path("named").read_bytes() == Path("mobilenet_v2.onnx").read_bytes()


@pytest.mark.usefixtures("registered")
def test_an_unknown_network_is_refused_with_those_there_are(command: Command) -> None:
    done = command("zoo", "vgg")
    assert done.code == 1
    assert "resnet18" in done.err


@pytest.mark.parametrize("entries", [(), ("benchmarks_not_in_the_wheel.zoo",)])
def test_without_the_source_tree_the_zoo_says_where_it_is(
    command: Command, monkeypatch: pytest.MonkeyPatch, entries: tuple[str, ...]
) -> None:
    use_entries(monkeypatch, *entries)
    done = command("zoo")
    assert done.code == 1
    assert "not of the wheel" in done.err


# --- how they fail --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect missing.onnx --target llvm", "missing.onnx"),
        ("inspect broken.onnx --target llvm", "not an ONNX model"),
        ("inspect model.onnx --target llvm", "'x:0' axis 0"),
        ("inspect model.onnx --target tpu --batch 1", "'tpu'"),
        ("inspect model.onnx --target cuda --arch sm_9 --batch 1", "sm_90"),
        ("inspect model.onnx --target llvm --shape x:0", "'x:0' is not a shape"),
        ("inspect model.onnx --target llvm --shape x:0=1,a", "'x:0=1,a'"),
        ("inspect model.onnx --target llvm --shape y=1,3,8,8", "no input 'y'"),
        ("build model.onnx -o out --target llvm --batch 1 --precision fp5", "'fp5'"),
        ("build model.onnx -o no/such/folder/out --target llvm --batch 1", "no/such/folder/out"),
        ("run missing", "missing"),
        ("run broken.onnx --target llvm", "not an ONNX model"),
        ("run x.npy", "x.npy"),
        ("run built", "x:0"),
        ("run built --input x:0", "--input name="),
        ("run built --input x:0=missing.npy", "missing.npy"),
        ("run built --input x:0=broken.onnx", "broken.onnx"),
        ("run built --input x:0=archive.npz", "archive.npz"),
        ("run built --input y=x.npy", "'x:0'"),
        ("run built --input x:0=wide.npy", "float64"),
        ("run built --input x:0=x.npy --batch 2 --shape x:0=2,3,12,12", "--batch, --shape"),
        ("compare broken.onnx built", "not an ONNX model"),
        ("bench built --check missing.onnx", "missing.onnx"),
    ],
)
def test_an_error_is_told_on_stderr_without_a_traceback(
    command: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    Path("broken.onnx").write_bytes(b"this is text")
    np.save("wide.npy", np.zeros((1, 3, 12, 12)))
    np.savez("archive.npz", x=np.zeros((1, 3, 12, 12), np.float32))
    done = command(*arguments.split())
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_process_ends_the_same_way() -> None:
    """Once as a process: exit code and streams are the shell's, and importing is not slow."""
    line = [sys.executable, "-m", "tvmconv.cli.app"]
    done = subprocess.run(
        [*line, "inspect", "missing.onnx", "--target", "llvm"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: missing.onnx")
    assert "Traceback" not in done.stderr
    helped = subprocess.run([*line, "--help"], capture_output=True, text=True, check=True)
    for name in ("build", "run", "bench", "compare", "inspect", "tune", "records", "zoo"):
        assert f" {name} " in helped.stdout

"""`make bench` checks before it times, and writes what it says it writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import tvm
from typer import Typer
from typer.testing import CliRunner

from benchmarks import bench, int8, machine, peers, prebuild
from benchmarks.zoo import zoo
from tests.support.models import Graph
from tvmconv.errors import ArtifactError, TvmconvError
from tvmconv.reports.collect.latency import Effort
from tvmconv.reports.data.comparison import CompareReport, OutputDifference
from tvmconv.reports.data.latency import LatencyReport, Timing

QUICK = Effort(warmup_ms=1, min_runs=3, min_seconds=0.01)
app = Typer(pretty_exceptions_enable=False)
app.command()(bench.main)


def tiny() -> onnx.ModelProto:
    """Two convolutions, of which only one can go to tensor cores, on the zoo's pictures."""
    g = Graph(["batch", 3, 224, 224])
    x = g.op("Relu", g.conv("input", 3, 16, 7, strides=[8, 8]))
    x = g.conv(x, 16, 16, 3, group=16)
    return g.model(g.op("Flatten", g.op("GlobalAveragePool", x), name="output"))


@pytest.fixture(autouse=True)
def small_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network, quick to build, and no pictures from the network."""
    entry = replace(zoo.ZOO[0], name="tiny", make=tiny)
    monkeypatch.setattr(zoo, "ZOO", (entry,))

    def no_network(count: int) -> Any:
        raise AssertionError("photos are fetched; this test asked for drawings")

    monkeypatch.setitem(bench.PICTURES, "photos", no_network)


def cell(batch: int, ours: float | None, **theirs: float) -> bench.Cell:
    """With medians in ms; ``ours`` None: refused."""
    error = OutputDifference("output", (batch, 10), 1e-3 if ours else 0.5, 0.1, 0.99, True)
    comparison = CompareReport("llvm", "onnxruntime", (error,))
    one = Timing.of([1.0])
    latency = ours and LatencyReport(
        "llvm", "znver4", batch, 2, Timing.of([ours]), None, one, one, 1.0, 1, 1e-3
    )
    others = {name: Timing.of([ms]) for name, ms in theirs.items()}
    return bench.Cell("tiny", batch, 1.5, 20, 20, comparison, latency or None, others, 0.0)


# --- one network ----------------------------------------------------------------------------
def test_a_network_is_built_checked_and_timed_beside_onnxruntime() -> None:
    found = bench.measure("tiny", 2, "llvm", pictures="drawings", effort=QUICK)
    assert found.latency is not None
    assert found.latency.batch == 2
    assert found.latency.relative_l2 == found.comparison.relative_l2 < 5e-3
    assert found.comparison.outputs[0].shape == (2, 16)
    assert (found.tensorized, found.convolutions) == (1, 2)
    assert found.build_s > 0
    assert set(found.peers) == {bench.ONNXRUNTIME}
    ours, theirs = found.latency.compute.median_ms, found.peers[bench.ONNXRUNTIME].median_ms
    assert found.ratio == ours / theirs


def test_what_was_built_elsewhere_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tvmconv.build(tiny(), target="llvm", batch=2).save(tmp_path / "tiny-b2.tvmconv")
    monkeypatch.setattr(bench.tvmconv, "build", None)
    found = bench.measure("tiny", 2, "llvm", built=tmp_path, pictures="drawings", effort=QUICK)
    assert found.latency is not None
    assert found.build_s > 0, "as the file says"
    with pytest.raises(ArtifactError, match=r"tiny-b3\.tvmconv"):
        bench.measure("tiny", 3, "llvm", built=tmp_path, pictures="drawings", effort=QUICK)


def test_what_fails_the_check_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: Any, **__: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(peers, "onnxruntime_cpu", timed)
    monkeypatch.setattr(bench.tvmconv, "bench", timed)
    found = bench.measure("tiny", 1, "llvm", pictures="drawings", bound=1e-9)
    assert found.latency is None
    assert found.peers == {}
    assert found.ratio is None


def test_onnxruntime_is_gone_before_ours_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its idle threads would spin on the cores that ours runs on."""

    def threads() -> set[str]:
        return {one.name for one in Path("/proc/self/task").iterdir()}

    seen: dict[str, set[str]] = {}
    session = peers.onnxruntime.InferenceSession

    def watched(*arguments: Any, **options: Any) -> Any:
        seen["before"] = threads()
        made = session(*arguments, **options)
        seen["during"] = threads()
        return made

    monkeypatch.setattr(peers.onnxruntime, "InferenceSession", watched)
    feeds = zoo.feeds("tiny", 1, zoo.drawings)
    peers.onnxruntime_cpu(tiny(), feeds, 3, QUICK)
    # Others, of tests before this one, may end meanwhile.
    theirs = seen["during"] - seen["before"]
    assert len(theirs) == 2, "the caller is the third"
    assert not theirs & threads()


@pytest.mark.gpu
@pytest.mark.skipif(not peers.has_torch(), reason="no PyTorch that can use a GPU")
def test_pytorch_is_timed_on_a_gpu() -> None:
    found = peers.torch_cuda_graph("resnet18", 1, QUICK)
    assert 0.05 < found.median_ms < 20


# --- the reports ----------------------------------------------------------------------------
def test_the_table_has_ratios_and_gaps() -> None:
    cells = [
        cell(1, 3.0, **{bench.ONNXRUNTIME: 2.0}),
        cell(8, 6.0, **{bench.ONNXRUNTIME: 4.0, "torch.compile": 12.0}),
        cell(16, None),
    ]
    header, _, first, second, third = bench.report(cells).splitlines()
    assert header.split("  ")[0] == "network"
    assert "1.50" in first
    assert {"1.50", "0.50"} <= set(second.split())
    assert "refused" in third
    assert "5.0e-01" in third
    assert "20 of 20" in third


def test_on_a_gpu_the_models_own_interface_has_a_column() -> None:
    first = cell(1, 3.0, **{bench.ONNXRUNTIME: 2.0})
    assert first.latency is not None
    on_gpu = replace(first.latency, target="cuda", enqueue=Timing.of([0.0075]))
    timed = replace(first, latency=on_gpu, as_model=Timing.of([3.25]), floor_us=1200.0)
    cells = [timed, cell(8, None)]
    header, _, row, refused = bench.report(cells).splitlines()
    assert all(name in header for name in ("host us", "ms as fp32 NCHW", "of the floor"))
    assert {"7.5", "3.25", "40%"} <= set(row.split())
    assert "refused" in refused
    assert "host us" not in bench.report([first])
    assert cells[0].to_json()["as_model"]["median_ms"] == 3.25


def test_for_a_gpu_a_network_is_built_as_the_peers_are_fed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the emulator, as if it were one: what is built, fed and compared."""
    build, built = bench.tvmconv.build, []

    def emulated(model: Any, target: str, arch: str | None, **options: Any) -> Any:
        built.append(options)
        return replace(build(model, target="llvm", **options), target="cuda")

    def timed(exe: Any, fed: Any, **_: Any) -> Any:
        assert {spec.name: (spec.shape, spec.dtype) for spec in exe.inputs} == {
            name: (array.shape, array.dtype) for name, array in fed.items()
        }
        return replace(first.latency, batch=len(fed["input"]))

    first = cell(1, 3.0)
    monkeypatch.setattr(bench.tvmconv, "build", emulated)
    monkeypatch.setattr(bench.tvmconv, "bench", timed)
    monkeypatch.setattr(bench.tvmconv.Executable, "device", lambda _: tvm.cpu())
    found = bench.measure("tiny", 2, "cuda", pictures="drawings", effort=QUICK)
    assert built == [{"batch": 2, **bench.AS_PEERS}, {"batch": 2}]
    assert found.as_model == Timing.of([3.0])
    assert found.comparison.passed(5e-3)


def test_a_busy_machine_is_warned_of() -> None:
    quiet = cell(1, 3.0, **{bench.ONNXRUNTIME: 2.0})
    assert "other programs" not in str(quiet)
    assert "other programs took 40%" in str(replace(quiet, busy=0.4))


def test_where_nothing_was_timed_there_is_no_plot(tmp_path: Path) -> None:
    paths = bench.write([cell(1, None)], "llvm", tmp_path / "a" / "b")
    assert [path.suffix for path in paths] == [".txt", ".json"]
    assert json.loads(paths[1].read_text())["cells"][0]["latency"] is None


def test_the_command_writes_table_json_and_plot(tmp_path: Path) -> None:
    run = partial(CliRunner().invoke, app, catch_exceptions=False)
    options = "--models tiny --batches 1,2 --target llvm --pictures drawings --min-seconds 0.01"
    done = run([*options.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert len([line for line in done.stdout.splitlines() if line.startswith("tiny")]) == 2
    text = (tmp_path / "bench-llvm.txt").read_text()
    assert done.stdout.strip() in text
    assert "host to device" in text
    assert (tmp_path / "bench-llvm.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "bench-llvm.json").read_text())
    assert [entry["batch"] for entry in found["cells"]] == [1, 2]
    assert found["cells"][0]["latency"]["compute"]["median_ms"] > 0
    assert found["cells"][0]["ratio_to_onnxruntime"] > 0
    assert found["machine"]["cpu"] == machine.facts()["cpu"]


def test_networks_in_int8_have_a_table_beside_fp16(tmp_path: Path) -> None:
    options = "--int8 --models tiny --batches 2 --target llvm --pictures drawings"
    done = CliRunner().invoke(
        app,
        [*options.split(), "--min-seconds", "0.01", "--out", str(tmp_path)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    _, second = [line for line in done.stdout.splitlines() if line.startswith("tiny")]
    assert "2 of 2" in second
    document = json.loads((tmp_path / "bench-llvm.json").read_text())
    assert document["int_mm"] is None, "there is no GPU"
    (cell,) = document["cells"]
    found = cell["int8"]
    fp16, ours = cell["latency"]["compute"], found["latency"]["compute"]
    assert found["ratio_to_fp16"] == ours["median_ms"] / fp16["median_ms"]
    assert (found["in_int8"], found["convolutions"]) == (2, 2)
    assert 0 < found["comparison"]["outputs"][0]["relative_l2"] <= found["bound"]
    # Both are about as far from the float model; the bound is sqrt(2) times that.
    assert found["from_float"] == pytest.approx(found["bound"] / 2**0.5, rel=0.5)
    assert found["first_class"] == 1
    quantised = onnx.load(tmp_path / "built" / "tiny-b2.int8.onnx").graph.node
    assert any(node.op_type == "QuantizeLinear" for node in quantised)


def test_in_int8_too_what_fails_the_check_is_not_timed(tmp_path: Path) -> None:
    """What was built is the network without its Relu."""
    path = prebuild.quantise("tiny", 2, tmp_path, zoo.drawings)
    other = onnx.load(path)
    (node,) = (one for one in other.graph.node if one.op_type == "Relu")
    node.op_type = "Neg"
    exe = bench.tvmconv.build(other, target="llvm", batch=2)
    exe.save(tmp_path / prebuild.file_name("tiny", 2, prebuild.AS_INT8))
    found = int8.measure("tiny", 2, "llvm", tmp_path, pictures=zoo.drawings, built=True)
    assert found.comparison.relative_l2 > found.bound
    assert (found.passed, found.latency) == (False, None)
    one = replace(cell(2, 3.0), int8=found)
    assert "refused" in bench.report([one]).splitlines()[-1]
    assert set(one.medians()) == {"tvmconv"}


def test_what_was_not_quantised_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(TvmconvError, match=r"there is no .*tiny-b3\.int8\.onnx"):
        int8.measure("tiny", 3, "llvm", tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not peers.has_torch(), reason="no PyTorch that can use a GPU")
def test_the_yardstick_of_integers_is_timed_on_a_gpu() -> None:
    found = peers.torch_int_mm(QUICK, 1024)
    assert 1 < found["tops"] < 4000


def test_the_command_fails_where_a_network_is_refused(tmp_path: Path) -> None:
    options = "--models tiny --batches 1 --target llvm --pictures drawings --bound 1e-9"
    with pytest.raises(TvmconvError, match="tiny at batch 1"):
        CliRunner().invoke(app, [*options.split(), "--out", str(tmp_path)], catch_exceptions=False)
    assert "refused" in (tmp_path / "bench-llvm.txt").read_text()


def test_where_there_are_jobs_all_is_built_first_and_then_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(builds: Sequence[prebuild.Build], jobs: int) -> None:
        """In this process, which has the small zoo."""
        assert jobs == 2
        for build in builds:
            build()
        monkeypatch.setattr(bench.tvmconv, "build", None)

    monkeypatch.setattr(bench, "prebuild", here)
    options = "--models tiny --batches 1,2 --target llvm --pictures drawings --min-seconds 0.01"
    done = CliRunner().invoke(
        app, [*options.split(), "--jobs", "2", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    built = {file.name for file in (tmp_path / "built").iterdir()}
    assert built == {"tiny-b1.tvmconv", "tiny-b2.tvmconv"}


def test_a_build_that_fails_in_another_process_is_told(tmp_path: Path) -> None:
    build = prebuild.Build("no such network", 1, "llvm", None, tmp_path)
    with pytest.raises(TvmconvError, match="no such network"):
        prebuild.prebuild([build], 1)


def test_peers_that_nobody_knows_are_refused() -> None:
    with pytest.raises(TvmconvError, match="unknown in --against"):
        CliRunner().invoke(app, ["--target", "llvm", "--against=me"], catch_exceptions=False)


@pytest.mark.parametrize("wrong", ["", "0", "1,,2", "a", "-1"])
def test_batches_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(TvmconvError, match="batch sizes"):
        CliRunner().invoke(app, ["--target", "llvm", f"--batches={wrong}"], catch_exceptions=False)


# --- the machine ----------------------------------------------------------------------------
def test_facts_are_json_with_what_can_be_found_out() -> None:
    found = json.loads(json.dumps(machine.facts()))
    assert found["cpu"]
    assert found["threads"] >= 1
    assert found["libraries"]["onnxruntime"] == peers.onnxruntime.__version__


def test_an_idle_share_is_a_share() -> None:
    found = machine.busy(0.05)
    assert found is None or 0 <= found <= 1

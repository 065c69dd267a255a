"""Reports, `inspect` and the command line say first what runs in onnxruntime, and why."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import tvmconv
from tests.support.fallbacks import cumulated, detector, recurrent
from tests.support.models import residual_net
from tests.support.shell import Command
from tvmconv.reports.data.build import BuildReport
from tvmconv.reports.data.capability import CapabilityReport
from tvmconv.reports.data.parts import CrossingReport

LLVM = ("--target", "llvm")


@pytest.fixture(scope="module")
def report() -> BuildReport:
    return tvmconv.build(recurrent("LSTM"), target="llvm").report


def test_the_first_lines(report: BuildReport) -> None:
    lines = str(report).splitlines()
    assert lines[0].startswith("onnxruntime runs ")
    assert "in 1 of 3 parts, on the CPU: " in lines[0]
    assert "LSTM x1" in lines[0]
    assert "  LSTM x1: not implemented" in lines
    between = lines.index("between parts, through the memory of the host:")
    assert len(report.crossings) == len(lines[between + 1 : lines.index("")])
    assert lines[lines.index("") + 1].startswith("llvm ")


def test_what_crosses_has_its_bytes(report: BuildReport) -> None:
    first, last = report.crossings
    assert (first.shape, first.moved_bytes) == ((1, 8, 12), 1 * 8 * 12 * 4) or (
        (first.shape, first.moved_bytes) == ((12, 1, 8), 1 * 8 * 12 * 4)
    )
    assert (first.source, first.readers, last.source, last.readers) == (1, (2,), 2, (3,))


def test_bytes_of_an_open_shape_are_not_said() -> None:
    one = CrossingReport("kept", "int64", (-1, 3), 2, (3, 5))
    assert one.moved_bytes is None
    assert str(one) == "kept: int64[?, 3], only a run decides how many bytes, part 2 to 3, 5"


def test_every_operator_of_the_model_has_a_fate(report: BuildReport) -> None:
    fates = {one.operator: one.fate for one in report.operators}
    assert [one.name for one in report.operators] == [
        node.name for node in recurrent("LSTM").graph.node
    ]
    assert fates["LSTM"] == "in onnxruntime: not implemented"
    assert fates["Conv"].endswith(" kernel")
    assert fates["MatMul"].endswith(" kernel")
    assert all(fate for fate in fates.values())
    assert "in onnxruntime" in str(report).rpartition("what became of it")[2]


def test_the_whole_is_the_sum_of_its_parts(report: BuildReport) -> None:
    assert [conv.operator for conv in report.convs] == ["Conv", "MatMul"]
    assert report.weight_bytes > 0
    assert report.peak_activation_bytes > 0
    assert report.batch == 1


def test_inspect_says_the_same() -> None:
    model = recurrent("LSTM")
    built = tvmconv.build(model, target="llvm").report
    found = tvmconv.inspect(model, target="llvm")
    assert found.buildable
    assert not found.unsupported
    assert (found.plan.parts, found.plan.crossings) == (built.parts, built.crossings)
    assert found.plan.convs == built.convs
    assert found.plan.operators == built.operators
    assert CapabilityReport.from_json(found.to_json()) == found
    text = str(found)
    assert text.startswith("onnxruntime runs ")
    assert "can be built, in 3 parts; " in text
    (row,) = (line for line in text.splitlines() if line.startswith("LSTM"))
    assert "in onnxruntime  not implemented" in row


def test_for_cuda_the_provider_is_named() -> None:
    text = str(tvmconv.inspect(detector(), target="cuda", arch="sm_90a"))
    assert "or on the GPU where its CUDA provider is installed" in text.splitlines()[0]


def test_a_network_without_parts_does_not_speak_of_them() -> None:
    report = tvmconv.build(residual_net(), target="llvm").report
    assert (report.parts, report.crossings) == ((), ())
    assert "onnxruntime" not in str(report)
    old = report.to_json()
    del old["parts"], old["crossings"]
    assert BuildReport.from_json(old) == report


def test_the_command_line(command: Command, tmp_path: Path) -> None:
    onnx.save(cumulated(), tmp_path / "model.onnx")
    built = command("build", tmp_path / "model.onnx", "-o", tmp_path / "out", *LLVM)
    assert built.code == 0, built.err
    assert built.out.startswith("onnxruntime runs 1 of 3 operators, in 1 of 3 parts")
    assert "onnxruntime runs 1 of 3 operators" in built.err
    compared = command("compare", tmp_path / "model.onnx", tmp_path / "out")
    assert compared.code == 0, compared.err
    found = command("inspect", tmp_path / "model.onnx", *LLVM, "--json").json
    assert [part["side"] for part in found["plan"]["parts"]] == [
        "compiled",
        "onnxruntime",
        "compiled",
    ]
    refused = command(
        "build", tmp_path / "model.onnx", "-o", tmp_path / "no", *LLVM, "--fallback", "none"
    )
    assert refused.code == 1
    assert "CumSum" in refused.err
    assert not (tmp_path / "no").exists()
    unknown = command("inspect", tmp_path / "model.onnx", *LLVM, "--fallback", "torch")
    assert unknown.code == 1
    assert "there is no fallback 'torch'" in unknown.err

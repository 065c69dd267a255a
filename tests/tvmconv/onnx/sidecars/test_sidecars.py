"""Scales in a file beside a float model: OpenPPL's JSON and TensorRT's calibration cache."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat

import tvmconv
from tests.support.models import Graph, residual_net
from tests.support.quantized import counts, feeds, run, static
from tests.support.shell import Command
from tvmconv import errors
from tvmconv.onnx.model import read
from tvmconv.onnx.quantized.inner_form import to_qdq
from tvmconv.onnx.sidecars.beside import read_sidecar, with_sidecar
from tvmconv.onnx.sidecars.sidecar import Scale

HEADER = "TRT-8601-EntropyCalibration2"


def ranges(model: onnx.ModelProto) -> dict[str, float]:
    """The largest magnitude of every activation, on noise."""
    every = onnx.ModelProto()
    every.CopyFrom(model)
    del every.graph.output[:]
    made = [node.output[0] for node in model.graph.node]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    fed = feeds(model)
    return {name: float(np.abs(value).max()) for name, value in (run(every, fed) | fed).items()}


def cache(scales: Mapping[str, float]) -> str:
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join([HEADER, *lines, ""])


def ppl(tensors: Mapping[str, Any], nodes: Mapping[str, str] | None = None) -> str:
    chosen = {name: {"data_type": kind} for name, kind in (nodes or {}).items()}
    return json.dumps({"quant_info": dict(tensors), **({"op_info": chosen} if nodes else {})})


def entry(largest: float, signed: bool = True, **more: Any) -> dict[str, Any]:
    scale, zero = (largest / 127, 0) if signed else (2 * largest / 255, 128.0)
    low, high = (-128, 127) if signed else (0, 255)
    return {
        "bit_width": 8,
        "per_channel": False,
        "quant_flag": True,
        "sym": signed,
        "algorithm": "KL",
        "scale": scale,
        "zero_point": zero,
        "tensor_max": largest,
        "tensor_min": -largest,
        "q_min": low,
        "q_max": high,
        **more,
    }


def as_json(model: onnx.ModelProto, signed: bool) -> str:
    tensors = {name: entry(value, signed) for name, value in ranges(model).items()}
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            each = [0.1] * tensor.dims[0]
            tensors[tensor.name] = entry(1.0, per_channel=True, tensor_max=each, tensor_min=each)
    return ppl(tensors)


def as_cache(model: onnx.ModelProto) -> str:
    return cache({name: value / 127 for name, value in ranges(model).items()})


FILES: dict[str, Callable[[onnx.ModelProto], str]] = {
    "cache": as_cache,
    "JSON, int8": lambda model: as_json(model, True),
    "JSON, uint8": lambda model: as_json(model, False),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "scales"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_a_network_is_quantised_by_a_file(kind: str, tmp_path: Path) -> None:
    model = residual_net(2)
    path = written(tmp_path, FILES[kind](model))
    pairs = to_qdq(with_sidecar(read(model), path))
    onnx.checker.check_model(pairs, full_check=True)
    # The input, the pool, four results, the shortcut of one block, which the next reads too, the
    # average pool and the product.
    assert counts(pairs)["Conv"] == 5
    makers = {name: node for node in pairs.graph.node for name in node.output}
    tensors = {one.name: numpy_helper.to_array(one) for one in pairs.graph.initializer}
    for node in pairs.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            x, w = (makers[name] for name in node.input[:2])
            assert x.op_type == w.op_type == "DequantizeLinear"
            assert tensors[w.input[0]].dtype == np.int8
            # One scale for each output channel, of the weights themselves.
            numbers, scale = tensors[w.input[0]].astype(int), tensors[w.input[1]]
            assert scale.shape == (numbers.shape[0],)
            flat = np.abs(numbers).reshape(len(numbers), -1)
            np.testing.assert_array_equal(flat.max(axis=1), 127)
            assert node.name in {one.name for one in model.graph.node}
        if node.op_type == "Add":
            made = sorted(makers[name].op_type for name in node.input)
            assert made == ["Conv", "DequantizeLinear"], "the shortcut alone"
        if node.op_type == "Relu":
            assert makers[node.input[0]].op_type in ("Conv", "Add"), "no pair before it"
    fed = feeds(model)
    expected, got = run(model, fed)["output"], run(pairs, fed)["output"]
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)
    assert np.abs(got - expected).max() > 0


@pytest.mark.parametrize("kind", FILES)
def test_build_and_inspect_take_a_file(kind: str, tmp_path: Path) -> None:
    model = residual_net(2)
    path = written(tmp_path, FILES[kind](model))
    exe = tvmconv.build(model, "llvm", quantization=path, records=False)
    fed = feeds(model)
    expected = run(to_qdq(with_sidecar(read(model), path)), fed)["output"]
    np.testing.assert_allclose(exe.run(fed)["output"], expected, rtol=0.02, atol=0.02)
    report = tvmconv.inspect(model, "llvm", quantization=str(path), records=False)
    found = {one.operator: one.count for one in report.operators}
    assert found["DequantizeLinear"] > found["QuantizeLinear"] > 5


def test_the_shell_takes_a_file(command: Command, tmp_path: Path) -> None:
    model = residual_net(2)
    onnx.save(model, tmp_path / "model.onnx")
    path = written(tmp_path, as_cache(model))
    ran = command(
        "inspect", str(tmp_path / "model.onnx"), "--target", "llvm", "--quantization", str(path)
    )
    assert ran.code == 0
    assert "QuantizeLinear" in ran.out
    path.write_text("no scales")
    ran = command(
        "inspect", str(tmp_path / "model.onnx"), "--target", "llvm", "--quantization", str(path)
    )
    assert ran.code == 1
    assert "is neither JSON nor a calibration cache" in ran.err


def test_cache_and_json_of_one_network_end_alike(tmp_path: Path) -> None:
    model = residual_net(2)
    ends = []
    for kind in ("cache", "JSON, int8"):
        pairs = to_qdq(with_sidecar(read(model), written(tmp_path, FILES[kind](model))))
        ends.append(run(pairs, feeds(model))["output"])
    np.testing.assert_array_equal(*ends)


def test_a_scale_is_read_bit_by_bit(tmp_path: Path) -> None:
    path = written(
        tmp_path, f"{HEADER}\nimages:0 : 3c010a14\n(Unnamed Layer* 3) [a]_out: 3f800000\n"
    )
    found = read_sidecar(path)
    assert found.scales == {"images:0": Scale(float(np.uint32(0x3C010A14).view(np.float32)))}
    assert found.internal == ("(Unnamed Layer* 3) [a]_out",)


def test_a_range_without_a_scale_is_the_engines(tmp_path: Path) -> None:
    one = entry(2.54, tensor_min=-1.0)
    del one["scale"], one["zero_point"], one["q_min"], one["q_max"]
    found = read_sidecar(written(tmp_path, ppl({"x": one})))
    assert found.scales == {"x": Scale(2.54 / 127, 0, True)}


def test_the_scale_of_what_is_only_moved_is_that_of_its_numbers(tmp_path: Path) -> None:
    model = residual_net(2)
    scales = {name: value / 127 for name, value in ranges(model).items()}
    (flat,) = (node.output[0] for node in model.graph.node if node.op_type == "Flatten")
    del scales[flat]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_sidecar(read(model), written(tmp_path, cache(scales)))


def test_tensors_without_a_scale_are_listed_and_stay(tmp_path: Path) -> None:
    model = residual_net(2)
    scales = {name: value / 127 for name, value in ranges(model).items()}
    for name in ("maxpool_2", "relu_4"):
        del scales[name]
    path = written(tmp_path, cache(scales))
    with pytest.warns(errors.QuantizationWarning, match=r"no scale for 'maxpool_2', 'relu_4'"):
        pairs = to_qdq(with_sidecar(read(model), path))
    makers = {name: node.op_type for node in pairs.graph.node for name in node.output}
    read_by = {
        node.name: makers[node.input[0]] for node in pairs.graph.node if node.op_type == "Conv"
    }
    assert (
        sorted(kind == "DequantizeLinear" for kind in read_by.values()) == [False] * 2 + [True] * 3
    )


def test_tensorrts_own_tensors_are_told_of(tmp_path: Path) -> None:
    model = residual_net(2)
    text = as_cache(model) + "(Unnamed Layer* 5) [Shuffle]_output: 3f800000\n"
    with pytest.warns(errors.QuantizationWarning, match=r"of TensorRT's own, left out"):
        with_sidecar(read(model), written(tmp_path, text))


def test_what_is_not_to_be_quantised_is_not(tmp_path: Path) -> None:
    model = residual_net(2)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    tensors = {name: entry(value) for name, value in ranges(model).items()}
    tensors[convs[1].input[1]] = {"quant_flag": False}
    text = ppl(tensors, {convs[2].name: "FLOAT32", convs[3].name: "INT8"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = to_qdq(with_sidecar(read(model), written(tmp_path, text)))
    constants = {one.name for one in pairs.graph.initializer}
    as_float = {
        node.name
        for node in pairs.graph.node
        if node.op_type == "Conv" and node.input[1] in constants
    }
    assert as_float == {convs[1].name, convs[2].name}


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_and_batch_norms(group: int, tmp_path: Path) -> None:
    g = Graph([1, 4, 5, 5])
    weight = g.constant(g.rng.standard_normal((4, 6 // group, 3, 3)).astype("f"))
    x = g.op("ConvTranspose", "input", weight, group=group)
    stats = [g.constant(g.rng.uniform(0.5, 2, 6).astype("f")) for _ in range(4)]
    x = g.op("BatchNormalization", x, *stats)
    y = g.op("Identity", g.op("Conv", x, g.constant(np.eye(6, dtype="f").reshape(6, 6, 1, 1))))
    model = g.model(g.op("Add", y, x, name="output"))
    pairs = to_qdq(with_sidecar(read(model), written(tmp_path, as_cache(model))))
    fed = feeds(model)
    expected, got = run(model, fed)["output"], run(pairs, fed)["output"]
    assert np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)
    found = counts(pairs)
    # Input, the result of the batch norm once, and two weights.
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (2, 4)


def test_a_model_of_fp16_and_an_old_opset(tmp_path: Path) -> None:
    g = Graph([1, 16, 6, 6], dtype="float16")
    model = g.model(g.op("Relu", g.conv(g.conv("input", 16, 8), 8, 8), name="output"), opset=11)
    path = written(tmp_path, cache({name: value / 127 for name, value in ranges(model).items()}))
    pairs = to_qdq(with_sidecar(read(model), path))
    onnx.checker.check_model(pairs, full_check=True)
    fed = feeds(model)
    expected, got = run(model, fed)["output"], run(pairs, fed)["output"]
    assert got.dtype == np.float16
    error = got.astype(float) - expected.astype(float)
    assert np.linalg.norm(error) < 0.05 * np.linalg.norm(expected.astype(float))
    assert tvmconv.build(model, "llvm", quantization=path).run(fed)["output"].dtype == np.float16


# --- bad input ------------------------------------------------------------------------------


def replaced(**fields: Any) -> str:
    return ppl({"input": entry(1.0, **fields)})


def without(*fields: str) -> str:
    one = entry(1.0)
    return ppl({"input": {name: value for name, value in one.items() if name not in fields}})


WRONG: dict[str, tuple[str, str]] = {
    "empty": ("", "is neither JSON nor a calibration cache"),
    "half a JSON": (replaced()[:-9], "is neither JSON nor a calibration cache"),
    "a list": ("[]", "is not OpenPPL's quantisation file"),
    "no quant_info": ("{}", "is not OpenPPL's quantisation file"),
    "another key": ('{"quant_info": {}, "other": 1}', "is not OpenPPL's quantisation file"),
    "quant_info is a list": ('{"quant_info": []}', "quant_info is list, not an object"),
    "a tensor is a number": (ppl({"input": 3}), "tensor 'input' is int, not an object"),
    "a node is a number": (
        '{"quant_info": {}, "op_info": {"conv_0": 3}}',
        "node 'conv_0' is int, not an object",
    ),
    "4 bits": (replaced(bit_width=4), "tensor 'input' has 4 bits"),
    "scale 0": (replaced(scale=0.0), "tensor 'input' has a scale of 0"),
    "scale -1": (replaced(scale=-1.0), "tensor 'input' has a scale of -1"),
    "scale NaN": (replaced(scale=float("nan")), "tensor 'input' has scale nan"),
    "scale too large for fp32": (replaced(scale=1e300), "tensor 'input' has a scale of inf"),
    "scale is a word": (replaced(scale="1"), "tensor 'input' has scale '1'"),
    "scale is a list": (replaced(scale=[1.0]), "tensor 'input' has scale [1.0]"),
    "no scale, no range": (without("scale", "tensor_max"), "tensor 'input' has no tensor_max"),
    "range of 0": (
        ppl({"input": {"tensor_min": 0, "tensor_max": 0}}),
        "tensor 'input' has a scale of 0",
    ),
    "zero point 256": (
        replaced(zero_point=256, q_min=0, q_max=255),
        "tensor 'input' has a zero point of 256",
    ),
    "zero point 0.5": (replaced(zero_point=0.5), "tensor 'input' has a zero point of 0.5"),
    "q_max 511": (replaced(q_min=0, q_max=511), "tensor 'input' is quantised to 0 to 511"),
    "per channel": (
        replaced(per_channel=True, scale=[1.0] * 3),
        "has a scale for each channel of 'input'",
    ),
    "unknown tensors": (
        ppl({"input": entry(1.0), "a": entry(1.0), "b": entry(1.0)}),
        "names tensors that the model does not have: 'a', 'b'",
    ),
    "unknown node": (
        ppl({"input": entry(1.0)}, {"Conv_9": "FLOAT32"}),
        "names nodes that the model does not have: 'Conv_9'",
    ),
    "another header": ("TRT-8601\ninput: 3c010a14\n", "is not a calibration cache"),
    "no scales": (f"{HEADER}\n", "has no scales"),
    "a line without a scale": (f"{HEADER}\ninput: 3c010a14\nrelu_1\n", "line 3 is not a tensor"),
    "not hexadecimal": (f"{HEADER}\ninput: 0.0207\n", "line 2 is not a tensor and its scale"),
    "too long": (f"{HEADER}\ninput: 3c010a1400\n", "line 2 is not a tensor and its scale"),
    "twice": (
        f"{HEADER}\ninput: 3c010a14\ninput: 3c010a14\n",
        "line 3 has tensor 'input' a second",
    ),
    "cache: scale 0": (f"{HEADER}\ninput: 0\n", "tensor 'input' has a scale of 0"),
    "cache: scale NaN": (f"{HEADER}\ninput: 7fc00000\n", "tensor 'input' has a scale of nan"),
    "cache: infinite": (f"{HEADER}\ninput: 7f800000\n", "tensor 'input' has a scale of inf"),
    "cache: negative": (f"{HEADER}\ninput: bf800000\n", "tensor 'input' has a scale of -1"),
    "cache: unknown": (
        f"{HEADER}\ninput: 3c010a14\nnothing: 3c010a14\n",
        "names tensors that the model does not have: 'nothing'",
    ),
}


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG)
def test_what_a_file_gets_wrong_is_told(text: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    for call in (tvmconv.build, tvmconv.inspect):
        with pytest.raises(errors.QuantizationError) as error:
            call(residual_net(2), "llvm", quantization=path)
        assert says in error.value.what
        assert str(path) in error.value.what
        assert error.value.hint


@pytest.mark.parametrize("path", ["missing.json", b"{}", 3, {"quant_info": {}}, "a\0b"])
def test_what_is_no_file(path: Any) -> None:
    with pytest.raises(errors.QuantizationError) as error:
        tvmconv.inspect(residual_net(2), "llvm", quantization=path)
    assert error.value.hint


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "scales"
    path.write_bytes(b"TRT-\xff\xfe")
    with pytest.raises(errors.QuantizationError, match="can't be read"):
        tvmconv.inspect(residual_net(2), "llvm", quantization=path)


def test_a_model_that_is_quantised_already(tmp_path: Path) -> None:
    model = static(residual_net(2), tmp_path, quant_format=QuantFormat.QDQ)
    with pytest.raises(errors.QuantizationError, match="quantised already"):
        tvmconv.inspect(model, "llvm", quantization=written(tmp_path, as_cache(residual_net(2))))


def test_long_lists_are_cut(tmp_path: Path) -> None:
    names = {f"t{at}": 1.0 for at in range(70)}
    with pytest.raises(errors.QuantizationError, match="'t49' and 20 more"):
        tvmconv.inspect(residual_net(2), "llvm", quantization=written(tmp_path, cache(names)))

"""The zoo's networks are what they claim to be, and what they are fed is what it should be."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from benchmarks.zoo import drawings as drawn
from benchmarks.zoo import photos, zoo
from tests.support.fetched import downloaded
from tests.support.reference import session, with_all_activations
from tests.support.thinned import thinned
from tvmconv.errors import TvmconvError
from tvmconv.onnx.model import fix_shapes

WRITTEN = ("resnet18", "resnet50", "mobilenet_v2", "convnext_tiny", "efficientnet_b0")
GENERATED = [entry for entry in zoo.ZOO if entry.name in WRITTEN]
LIGHT = [entry for entry in zoo.ZOO if entry.name.startswith("light_")]
TRAINED = [entry for entry in zoo.ZOO if entry not in GENERATED + LIGHT]
#: Of the light networks: those that take a second at most, and all kinds of layers among them.
QUICK = [entry for entry in LIGHT if entry.name in ("light_squeezenet", "light_shufflenet")]
SLOW = [pytest.param(entry, marks=pytest.mark.slow) for entry in LIGHT if entry not in QUICK]
FP16_SAFE = 3e4
"""Half the largest float16: what an intermediate may reach."""

LARGE = ("lore_detect", "convnext_tiny")
by_name = pytest.mark.parametrize(
    "entry",
    [pytest.param(one, marks=pytest.mark.slow if one.name in LARGE else ()) for one in GENERATED],
    ids=lambda entry: entry.name,
)
light_by_name = pytest.mark.parametrize("entry", [*QUICK, *SLOW], ids=lambda entry: entry.name)
trained_by_name = pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)


def giga_macs(model: onnx.ModelProto) -> float:
    """Multiply-adds of convolutions and linear layers at batch 1, from ONNX's shape inference."""
    graph = fix_shapes(model, batch=1).graph
    known = [*graph.input, *graph.value_info, *graph.output]
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in known}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    macs = 0
    for node in graph.node:
        name = node.output[0]
        if node.op_type == "Constant":
            weights[name] = list(node.attribute[0].t.dims)
        elif node.op_type in ("Reshape", "Identity") and node.input[0] in weights:
            weights[name] = weights[node.input[0]]
        elif node.op_type == "Conv":
            macs += math.prod(shapes[name]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            macs += math.prod(shapes[node.input[0]]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type == "Gemm":
            macs += math.prod(weights[node.input[1]])
        elif node.op_type == "MatMul" and node.input[1] in weights:
            macs += math.prod(shapes[name]) * weights[node.input[1]][0]
    return macs / 1e9


def parameters(model: onnx.ModelProto) -> int:
    """Numbers in floating point but batch norm's running statistics and the bounds of ReLU6."""
    nodes = model.graph.node
    other = {name for n in nodes if n.op_type == "BatchNormalization" for name in n.input[3:]}
    other |= {name for node in nodes if node.op_type == "Clip" for name in node.input[1:]}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in other
    )


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.square(array.astype(np.float64)).mean()))


def apart(pair: np.ndarray) -> float:
    """Relative l2 distance of two pictures' results."""
    return float(np.linalg.norm(pair[0] - pair[1]) / np.linalg.norm(pair[0]))


# --- all of them ----------------------------------------------------------------------------
def test_names_are_unique_and_everything_is_described() -> None:
    assert len(set(zoo.names())) == len(zoo.ZOO)
    assert len(TRAINED) == 10
    assert len(LIGHT) == 9
    for entry in zoo.ZOO:
        assert entry.licence
        assert entry.source


QUICKLY_MADE = [entry.name for entry in [*GENERATED, *TRAINED, *QUICK]]
QUICKLY_RUN = [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in QUICKLY_MADE
]


@pytest.mark.parametrize("name", QUICKLY_MADE)
def test_feed_has_the_inputs_name_shape_and_dtype(name: str) -> None:
    model = downloaded(lambda: zoo.load(name))
    (expected,) = model.graph.input
    ((input_name, array),) = zoo.feeds(name, 3, zoo.drawings).items()
    assert input_name == expected.name
    batch, *dims = expected.type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert array.shape == (3, *(dim.dim_value for dim in dims))
    assert array.dtype == np.float32
    assert array.flags.c_contiguous


@pytest.mark.parametrize("pictures", [zoo.photos, zoo.drawings], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", thinned(QUICKLY_RUN, 2))
def test_no_output_is_near_zero_or_the_same_for_two_pictures(name: str, pictures) -> None:
    model = downloaded(lambda: zoo.load(name))
    feed = downloaded(lambda: zoo.feeds(name, 2, pictures))
    onnx.checker.check_model(model)
    outputs = session(model).run(None, feed)
    assert outputs
    for value, array in zip(model.graph.output, outputs, strict=True):
        assert len(array) == 2, value.name
        assert np.isfinite(array).all(), value.name
        assert rms(array) > 1e-4, value.name
        assert (array[0] != array[1]).any(), value.name


@pytest.mark.parametrize("pictures", [zoo.photos, zoo.drawings], ids=lambda make: make.__name__)
def test_pictures_of_a_batch_differ(pictures) -> None:
    batch = downloaded(lambda: pictures(16))
    assert batch.shape == (16, 224, 224, 3)
    assert batch.dtype == np.uint8
    assert len({picture.tobytes() for picture in batch}) == 16
    np.testing.assert_array_equal(pictures(3), batch[:3])


SOURCES = [
    *((photos.pages, photos.PAGE), (drawn.drawn_pages, photos.PAGE)),
    *((photos.lines, photos.LINE), (drawn.drawn_lines, photos.LINE)),
    *((drawn.drawn_tables, (768, 768)), (drawn.drawn_cells, (768, 768))),
    *((photos.portraits, (320, 320)), (photos.faces, (24, 24))),
]


@pytest.mark.parametrize(
    ("source", "size"), SOURCES, ids=lambda one: getattr(one, "__name__", None)
)
def test_pictures_of_what_networks_know_differ(source, size: tuple[int, int]) -> None:
    batch = downloaded(lambda: source(8))
    assert batch.shape == (8, *size, 3)
    assert batch.dtype == np.uint8
    assert len({picture.tobytes() for picture in batch}) == 8
    np.testing.assert_array_equal(source(2), batch[:2])


def test_colours_are_prepared_in_the_order_and_scale_of_training() -> None:
    orange = np.array((255, 128, 0), np.uint8)

    def pixel(name: str, height: int, width: int) -> np.ndarray:
        def plain(count: int) -> zoo.Pictures:
            return np.broadcast_to(orange, (count, height, width, 3))

        (array,) = zoo.feeds(name, 1, plain).values()
        return array[0, 0, 0] if array.shape[3] == 3 else array[0, :, 0, 0]

    red, green, blue = 1, 128 / 255, 0
    expected = {
        "opennsfw": (0 - 104, 128 - 117, 255 - 123),
        "resnet50": ((red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225),
        "efficientnet_lite0": (1, 128 / 127.5 - 1, -1),
        "rapidocr_det": (-1, 128 / 127.5 - 1, 1),
        "lore_detect": ((blue - 0.408) / 0.289, (green - 0.447) / 0.274, (red - 0.470) / 0.278),
        "nudenet_320n": (red, green, blue),
        "mtcnn_pnet": (127.5 / 128, 0.5 / 128, -127.5 / 128),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(pixel(name, 224, 224), values, rtol=1e-5, atol=1e-6)


def test_mtcnn_sees_columns_before_rows() -> None:
    def left_half_white(count: int) -> zoo.Pictures:
        picture = np.zeros((count, 24, 24, 3), np.uint8)
        picture[:, :, :12] = 255
        return picture

    (array,) = zoo.feeds("mtcnn_rnet", 1, left_half_white).values()
    assert (array[0, :12] > 0.9).all()
    assert (array[0, 12:] < -0.9).all()


@pytest.mark.parametrize("use", [zoo.load, zoo.feeds], ids=lambda use: use.__name__)
def test_unknown_name_lists_the_known_ones(use) -> None:
    with pytest.raises(TvmconvError, match="resnet1010") as caught:
        use("resnet1010")
    assert all(name in caught.value.hint for name in zoo.names())


# --- generated ------------------------------------------------------------------------------
@by_name
def test_generated_network_is_torchvisions(entry: zoo.ZooModel) -> None:
    model = entry.make()
    onnx.checker.check_model(model, full_check=True)
    assert parameters(model) == entry.parameters
    assert giga_macs(model) == pytest.approx(entry.gmacs, rel=0.01)
    node_names = [node.name for node in model.graph.node]
    assert len(set(node_names)) == len(node_names)


@by_name
def test_generated_network_is_the_same_every_time(entry: zoo.ZooModel) -> None:
    assert entry.make().SerializeToString() == entry.make().SerializeToString()


@by_name
def test_activations_stay_in_range_and_logits_tell_pictures_apart(entry: zoo.ZooModel) -> None:
    model = entry.make()
    feed = zoo.feeds(entry.name, 2, zoo.drawings)
    (alone,) = session(model).run(None, {entry.input_name: feed[entry.input_name][:1]})
    whole, inner = with_all_activations(model)
    logits, *activations = session(whole).run(None, feed)

    for name, activation in zip(inner, activations, strict=True):
        peak = np.abs(activation).max()
        assert 0.1 < peak < FP16_SAFE, f"{name}: peak {peak}"
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    assert 1 < np.abs(logits).max() < 20
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-3, atol=1e-3)
    assert apart(logits) > 0.1, "two pictures give nearly the same logits"


# --- light ----------------------------------------------------------------------------------
@light_by_name
def test_light_network_has_seeded_weights_that_keep_it_alive(entry: zoo.ZooModel) -> None:
    model = entry.make()
    kinds = [node.op_type for node in model.graph.node]
    assert "ConstantOfShape" not in kinds
    assert model.ir_version == 8
    assert parameters(model) == entry.parameters
    assert giga_macs(model) == pytest.approx(entry.gmacs, rel=0.01)
    assert len(model.graph.input) == 1

    whole, inner = with_all_activations(model)
    output, *activations = session(whole).run(None, zoo.feeds(entry.name, 2, zoo.drawings))
    for name, activation in zip(inner, activations, strict=True):
        peak = np.abs(activation).max()
        assert 0.1 < peak < 1e3, f"{name}: peak {peak}"
    output = output.reshape(2, 1000)
    assert apart(output) > 0.2, "two pictures give nearly the same"
    if kinds[-1] == "Softmax":
        np.testing.assert_allclose(output.sum(axis=1), 1, rtol=1e-5)
        assert (output.max(axis=1) < 0.5).all(), "one class takes all"
        assert (output.max(axis=1) > 0.002).all(), "all classes are alike"


def test_light_network_is_the_same_every_time() -> None:
    (entry,) = (entry for entry in LIGHT if entry.name == "light_shufflenet")
    assert entry.make().SerializeToString() == entry.make().SerializeToString()


@pytest.mark.parametrize("entry", QUICK, ids=lambda entry: entry.name)
def test_light_network_takes_any_batch(entry: zoo.ZooModel) -> None:
    run, feed = session(entry.make()).run, zoo.feeds(entry.name, 3, zoo.drawings)
    (together,) = run(None, feed)
    for index in range(3):
        (alone,) = run(None, {entry.input_name: feed[entry.input_name][index : index + 1]})
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-3, atol=1e-6)


# --- trained --------------------------------------------------------------------------------
@trained_by_name
def test_trained_network_costs_what_the_zoo_says(entry: zoo.ZooModel) -> None:
    model = downloaded(entry.make)
    assert giga_macs(model) == pytest.approx(entry.gmacs, rel=0.02)
    if entry.parameters is not None:
        assert parameters(model) == entry.parameters


@pytest.mark.parametrize("name", ["resnet18", "rapidocr_cls"])
def test_networks_are_calibrated_with_other_pictures_than_they_are_fed(name: str) -> None:
    (fed,) = zoo.feeds(name, 3, zoo.drawings).values()
    found = zoo.calibration(name, 2, 2, zoo.drawings, besides=3)
    assert [[one.shape for one in feed.values()] for feed in found] == [[(2, *fed.shape[1:])]] * 2
    given = np.concatenate([one for feed in found for one in feed.values()])
    assert not any(np.array_equal(one, other) for one in fed for other in given)


def test_photos_to_calibrate_with_and_to_test_are_of_different_photos() -> None:
    shown = downloaded(lambda: zoo.photos(8))
    calibrated, tested = zoo.halves(20)
    assert len(np.unique(np.concatenate([calibrated, tested]), axis=0)) == 40
    for picture in shown:
        assert not any(np.array_equal(picture, other) for other in (*calibrated, *zoo.others(32)))
    assert all(any(np.array_equal(picture, other) for other in tested) for picture in shown[:4])

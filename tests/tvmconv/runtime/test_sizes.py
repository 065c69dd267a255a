"""Networks built for several sizes: which bucket runs, what comes out, what is said of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

import tvmconv
from tests.support.checks import DIRECT
from tests.support.models import Graph
from tests.support.shell import Command
from tests.support.sizes import fed, finder, held, image, joined, running
from tvmconv.errors import FeedError, ModelError, ShapeError
from tvmconv.runtime import artifact, streaming
from tvmconv.runtime.buckets import distance

SMALL, WIDE = (1, 3, 8, 10), (1, 3, 6, 16)
QUICK: dict[str, Any] = {"warmup_ms": 1.0, "min_runs": 2, "min_seconds": 0.0, "layers": False}


def build(model: onnx.ModelProto, **options: Any) -> tvmconv.Executable:
    """With the kernels that compile fastest, but where `families` says others."""
    return tvmconv.build(model, target="llvm", **{"families": DIRECT, **options})


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    """Two sizes of one image each."""
    return build(finder(), shapes=[{"input": WIDE}, {"input": SMALL}])


@pytest.fixture(scope="module")
def both() -> tvmconv.Executable:
    """Two sizes, each of one and of three images."""
    sizes = [{"input": (3, *shape[1:])} for shape in (SMALL, WIDE)]
    return build(finder(), batch=[3, 1], shapes=sizes)


# --- the rule -------------------------------------------------------------------------------
shape = st.lists(st.integers(1, 2000), min_size=1, max_size=4).map(tuple)


@given(one=shape, other=shape)
def test_a_distance_is_that_of_the_ratios(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    far = distance((one,), (other,))
    assert far == distance((other,), (one,))
    assert (far == 0) == (one == other)
    assert (far == math.inf) == (len(one) != len(other))
    if len(one) == len(other):
        doubled = tuple(2 * size for size in one), tuple(2 * size for size in other)
        assert math.isclose(far, distance(*((each,) for each in doubled)), abs_tol=1e-9)


# --- running --------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [SMALL, WIDE])
def test_the_bucket_of_what_is_fed_runs(exe: tvmconv.Executable, shape: tuple[int, ...]) -> None:
    feeds = image(*shape)
    held(finder(), feeds, exe.run(feeds))
    tensors = exe.run({"input": tvm.runtime.tensor(feeds["input"])})
    held(finder(), feeds, {name: one.numpy() for name, one in tensors.items()})


@pytest.mark.parametrize(("n", "shape"), [(5, SMALL), (2, WIDE), (1, WIDE), (3, SMALL)])
def test_any_number_of_images_of_each_size(
    both: tvmconv.Executable, n: int, shape: tuple[int, ...]
) -> None:
    feeds = image(n, *shape[1:])
    held(finder(), feeds, both.run(feeds))


@pytest.mark.slow
def test_several_inputs() -> None:
    shapes = [
        {"input": (1, 8, 6, 6), "other": (1, 8, h, 5), "gain": (1, 8, 1, 1)} for h in (4, 7, 5)
    ]
    exe = build(joined(), shapes=shapes)
    for each in shapes:
        held(joined(), fed(each), exe.run(fed(each)))
    with pytest.raises(FeedError) as error:
        exe.run(fed({**shapes[0], "other": (1, 8, 6, 5)}))
    assert re.findall(r"other: float32\[1, 8, (\d)", error.value.note) == ["7", "5", "4"]


@pytest.mark.slow
def test_inputs_that_are_left_out_have_the_models_shape() -> None:
    exe = build(joined(), batch=2, shapes=[
        {"input": (2, 8, 6, 6), "other": (2, 8, h, 5)} for h in (4, 7)
    ])  # fmt: skip
    assert [entry.inputs[2].shape for entry in exe.entries] == [(2, 8, 1, 1)] * 2


@pytest.mark.slow
def test_a_network_in_parts_has_parts_for_every_size() -> None:
    exe = build(running(), shapes=[{"input": SMALL}, {"input": WIDE}])
    assert exe.in_parts
    assert [len(one.parts) for one in (*exe.report.smaller, exe.report)] == [3, 3]
    for shape in (SMALL, WIDE):
        held(running(), image(*shape), exe.run(image(*shape)))


@pytest.mark.slow
def test_fed_in_nhwc() -> None:
    shapes = [{"input": SMALL}, {"input": WIDE}]
    exe = build(finder(), shapes=shapes, io_layout="NHWC")
    assert [entry.inputs[0].shape for entry in exe.entries] == [(1, 8, 10, 3), (1, 6, 16, 3)]
    feeds = image(*SMALL)
    ours = exe.run({"input": feeds["input"].transpose(0, 2, 3, 1)})
    held(finder(), feeds, {name: one.transpose(0, 3, 1, 2) for name, one in ours.items()})
    assert exe.bucket(shapes={"input": (1, 6, 16, 3)}).inputs[0].shape == (1, 6, 16, 3)


def test_bind_and_a_stream_take_the_bucket_of_what_is_fed(
    exe: tvmconv.Executable, both: tvmconv.Executable
) -> None:
    feeds = [image(*shape) for shape in (WIDE, SMALL, SMALL, WIDE)]
    for one, results in zip(feeds, exe.map(feeds), strict=True):
        held(finder(), one, results)
    for one in feeds[:2]:
        binding = exe.bind(one)
        binding.run()
        held(finder(), one, {name: x.numpy() for name, x in binding.outputs.items()})
    assert exe.bind().inputs["input"].shape == exe.inputs[0].shape == WIDE
    with pytest.raises(FeedError, match="built for other shapes"):
        both.bind(image(2, *SMALL[1:]))


def test_slots_of_a_stream_are_those_of_a_bucket(both: tvmconv.Executable) -> None:
    from tests.tvmconv.runtime.test_streaming import FakeEvent, FakeStream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "Stream", FakeStream)
        patch.setattr(streaming, "Event", FakeEvent)
        patch.setattr(streaming, "pinned", lambda shape, dtype: np.full(shape, 7, dtype))
        counts = [(4, SMALL), (1, WIDE), (3, SMALL), (7, WIDE), (1, SMALL)]
        feeds = [image(n, *shape[1:], seed=n) for n, shape in counts]
        for one, results in zip(feeds, streaming.stream_batches(both, feeds), strict=True):
            held(finder(), one, results)


# --- what fits no bucket --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "closest"),
    [((1, 3, 8, 9), SMALL), ((1, 3, 7, 16), WIDE), ((1, 4, 8, 10), SMALL), ((2, *WIDE[1:]), WIDE)],
)
def test_the_shapes_there_are_come_in_the_order_of_closeness(
    exe: tvmconv.Executable, given: tuple[int, ...], closest: tuple[int, ...]
) -> None:
    with pytest.raises(FeedError) as error:
        exe.run(image(*given))
    assert f"input: float32{list(given)}" in error.value.what
    other = SMALL if closest == WIDE else WIDE
    places = [error.value.note.index(f"float32{list(one)}") for one in (closest, other)]
    assert places == sorted(places)
    assert "shapes=" in error.value.hint


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        (np.zeros((0, *SMALL[1:]), "f"), "input: float32[1 or more, 3, 8, 10]"),
        (np.zeros((1, 3, 9, 9), "f"), "input: float32[1 or more, 3, 6, 16]"),
        (np.zeros(SMALL[1:], "f"), "input: float32[1 or more, 3, 8, 10]"),
        (np.zeros((), "f"), "input: float32[1 or more, 3, 8, 10]"),
        (np.zeros(SMALL), "got float64[1, 3, 8, 10], expected float32"),
    ],
)
def test_bad_feeds(both: tvmconv.Executable, feed: Any, says: str) -> None:
    with pytest.raises(FeedError) as error:
        both.run({"input": feed})
    assert says in str(error.value)


def test_many_shapes_are_not_all_named() -> None:
    from tvmconv.runtime.feeds import MOST_NAMED, read
    from tvmconv.specs import TensorSpec

    buckets = [[TensorSpec("x", (1, side), "float32")] for side in range(1, 40)]
    with pytest.raises(FeedError) as error:
        read(buckets, {"x": np.zeros((1, 50), "f")}, False)
    named = re.findall(r"\[1, (\d+)\]", error.value.note)
    assert named == [str(side) for side in range(39, 39 - MOST_NAMED, -1)]
    assert f"and {39 - MOST_NAMED} more" in error.value.note


# --- what is refused ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ([], "an empty list has no shapes"),
        ([{"input": SMALL}, {"input": SMALL}], "listed twice: input: float32[1, 3, 8, 10]"),
        ([{"input": SMALL}, {"input": WIDE[:3]}], "has 4 dimensions"),
        ([{"input": SMALL}, {"other": WIDE}], "no input 'other'"),
        ([{"input": SMALL}, SMALL], "by input name, not as (1, 3, 8, 10)"),
        ([{"input": SMALL}, None], "left open"),
        ([SMALL], "by input name"),
        ("input", "by input name"),
    ],
)
@pytest.mark.parametrize("call", [tvmconv.build, tvmconv.inspect])
def test_bad_shapes(call: Any, shapes: Any, says: str) -> None:
    with pytest.raises(ShapeError) as error:
        call(finder(), target="llvm", shapes=shapes)
    assert says in str(error.value)


def test_every_size_is_given_at_the_largest_batch() -> None:
    sizes = [{"input": (3, 3, 8, 8)}, {"input": (1, 3, 9, 9)}]
    with pytest.raises(ShapeError, match="the largest bucket is 3"):
        build(finder(), batch=[1, 3], shapes=sizes)


def test_images_have_to_be_independent_at_every_size() -> None:
    """Here the mean of the images is added as often as they have columns past eight."""
    g = Graph(["n", 8, "h", "w"])
    x = g.conv("input", 8, 8)
    width = g.op("Gather", g.op("Shape", x), g.constant(np.array(3)))
    past = g.op("Cast", g.op("Sub", width, g.constant(np.array(8))), to=onnx.TensorProto.FLOAT)
    mean = g.op("ReduceMean", x, axes=[0], keepdims=1)
    model = g.model(g.op("Add", x, g.op("Mul", mean, past), name="y"))
    sizes = [{"input": (2, 8, 8, width)} for width in (8, 10)]
    for one in (sizes, sizes[1]):
        with pytest.raises(ModelError, match="affect each other"):
            tvmconv.inspect(model, target="llvm", batch=[1, 2], shapes=one)
    tvmconv.inspect(model, target="llvm", batch=[1, 2], shapes=sizes[0])


# --- what it is -----------------------------------------------------------------------------
def test_weights_are_stored_once(both: tvmconv.Executable) -> None:
    ids = {id(array) for array in both.weights}
    assert all({id(array) for array in entry.weights} == ids for entry in both.entries)
    assert both.report.stored_weight_bytes == both.report.weight_bytes


@pytest.mark.slow
def test_on_tensor_cores() -> None:
    shapes = [{"input": (2, *SMALL[1:])}, {"input": (2, *WIDE[1:])}]
    exe = build(finder(), batch=[1, 2], shapes=shapes, families=None)
    assert exe.report.tensorized == 3
    assert exe.report.stored_weight_bytes == exe.report.weight_bytes
    for n, shape in ((1, SMALL), (3, WIDE)):
        held(finder(), image(n, *shape[1:]), exe.run(image(n, *shape[1:])))
    assert tvmconv.compare(finder(), exe).passed()


def test_buckets_are_named_by_batch_or_shapes(both: tvmconv.Executable) -> None:
    assert both.batches == (1, 3)
    assert both.inputs[0].shape == (3, *WIDE[1:])
    assert "buckets 1x3x8x10, 1x3x6x16, 3x3x8x10, 3x3x6x16: input" in repr(both)
    one = both.bucket(3, {"input": (3, *SMALL[1:])})
    assert one.inputs == both.bucket(shapes={"input": (3, *SMALL[1:])}).inputs
    assert one.report.shapes == {"input": (3, *SMALL[1:])}
    with pytest.raises(FeedError, match=r"several buckets of 3\n.*3x3x8x10, 3x3x6x16"):
        both.bucket(3)
    with pytest.raises(FeedError, match=r"no bucket of 2\n.*1x3x8x10"):
        both.bucket(2)
    with pytest.raises(FeedError, match="no bucket of 1x3x8x8"):
        both.bucket(shapes={"input": (1, 3, 8, 8)})


def test_reports_name_every_bucket(exe: tvmconv.Executable, both: tvmconv.Executable) -> None:
    text = str(both.report)
    assert "bucket of 3x3x6x16" in text.splitlines()[0]
    rows = [line.split()[0] for line in text.splitlines() if " of " in line and line[0].isdigit()]
    assert rows[:4] == ["1x3x8x10", "1x3x6x16", "3x3x8x10", "3x3x6x16"]
    assert type(both.report).from_json(json.loads(json.dumps(both.report.to_json()))) == both.report
    shapes = [{"input": SMALL}, {"input": WIDE}]
    seen = tvmconv.inspect(finder(), target="llvm", shapes=shapes, families=DIRECT)
    assert [one.shapes["input"] for one in (*seen.smaller, seen.plan)] == [SMALL, WIDE]
    assert seen.convs == exe.report.convs
    assert seen.inputs[0].shape == WIDE


def test_compare_and_bench_are_of_every_bucket(
    exe: tvmconv.Executable, both: tvmconv.Executable
) -> None:
    found = tvmconv.compare(finder(), both)
    assert found.passed()
    assert [one.fed["input"] for one in found.outputs[::3]] == [e.shapes[0] for e in both.entries]
    assert str(found).splitlines()[1].split()[0] == "fed"
    assert "1x3x6x16  found" in str(found)
    found = tvmconv.compare(finder(), both, image(2, *SMALL[1:]))
    assert {one.fed["input"] for one in found.outputs} == {SMALL, (3, *SMALL[1:])}
    found = tvmconv.compare(finder(), exe, image(*SMALL))
    assert [one.fed["input"] for one in found.outputs] == [SMALL] * 3
    timed = tvmconv.bench(exe, relative_l2=1e-3, **QUICK)
    assert [one.shapes["input"] for one in (*timed.smaller, timed)] == [SMALL, WIDE]
    assert "batch 1 (1x3x6x16) on llvm" in str(timed)


def test_saved_and_loaded(both: tvmconv.Executable, tmp_path: Path) -> None:
    both.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    assert repr(loaded) == repr(both)
    assert loaded.report == both.report
    for n, shape in ((2, SMALL), (3, WIDE)):
        feeds = image(n, *shape[1:])
        assert all(np.array_equal(x, both.run(feeds)[k]) for k, x in loaded.run(feeds).items())
    assert artifact.read(tmp_path / "network").manifest["format"] == artifact.FORMAT_OF_SIZES
    both.bucket(1, {"input": SMALL}).save(tmp_path / "one")
    assert artifact.read(tmp_path / "one").manifest["format"] == artifact.FORMAT
    held(finder(), image(*SMALL), tvmconv.load(tmp_path / "one").run(image(*SMALL)))


# --- the command line -----------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(finder(), tmp_path / "model.onnx")
    onnx.save(joined(), tmp_path / "joined.onnx")
    np.save(tmp_path / "small.npy", image(*SMALL)["input"])
    np.save(tmp_path / "odd.npy", image(1, 3, 9, 9)["input"])
    return tmp_path


TWO = (
    "--target",
    "llvm",
    "--families",
    "direct",
    "--shape",
    "input=1,3,8,10",
    "--shape",
    "input=1,3,6,16",
)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_commands_take_sizes(command: Command) -> None:
    seen = command("inspect", "model.onnx", *TWO, "--json").json
    assert seen["plan"]["smaller"][0]["shapes"] == {"input": [1, 3, 8, 10]}
    done = command("build", "model.onnx", "-o", "built", *TWO)
    assert done.code == 0, done.err
    assert "bucket of 1x3x6x16" in done.out
    done = command("run", "built", "--input", "input=small.npy", "--json")
    assert done.json["outputs"][0]["shape"] == [1, 8, 4, 5]
    found = command("compare", "model.onnx", "built", "--json")
    assert (found.code, found.json["passed"], len(found.json["outputs"])) == (0, True, 6)


@pytest.mark.usefixtures("folder")
def test_a_command_names_the_shapes_there_are(command: Command, exe: tvmconv.Executable) -> None:
    exe.save("built")
    done = command("run", "built", "--input", "input=odd.npy")
    assert done.code == 1
    assert "closest first, input: float32[1, 3, 8, 10]; input: float32[1, 3, 6, 16]" in done.err
    assert "--shape" in done.err
    assert "shapes=" not in done.err


@pytest.mark.usefixtures("folder")
def test_a_name_that_comes_again_begins_the_next_size(command: Command) -> None:
    shapes = ["input=1,8,6,6", "other=1,8,4,5", "gain=1,8,1,1"]
    options = [text for name in (*shapes, *reversed(shapes)) for text in ("--shape", name)]
    options[-1] = "input=1,8,7,7"
    seen = command("inspect", "joined.onnx", "--target", "llvm", *options, "--json").json
    each = [one["shapes"]["input"] for one in (*seen["plan"]["smaller"], seen["plan"])]
    assert each == [[1, 8, 6, 6], [1, 8, 7, 7]]
    done = command("inspect", "joined.onnx", "--target", "llvm", *options, "--shape", shapes[0])
    assert done.code == 1
    assert "names input, other, gain for one size, input for another" in done.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("inspect model.onnx --target llvm", "give --batch 1, or --shape input=1,3,224,224"),
        ("inspect model.onnx --target llvm --batch 0", "give --batch 1"),
        ("inspect model.onnx --target llvm --batch 2,2", "give --batch 1,8,32"),
        (
            "inspect model.onnx --as sm_90a --arch sm_80 --batch 1",
            "give --arch sm_90a, or --target",
        ),
        ("inspect model.onnx --target llvm --batch 1 --records odd.npy", "--records off"),
        ("quantize model.onnx --images . -o o --shape input=1,3,8,8 --shape input=1,3,9,9", "once"),
        ("simulate model.onnx --images . --shape input=1,3,8,8 --shape input=1,3,9,9", "once"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_hint_is_in_the_shells_syntax(command: Command, arguments: str, hint: str) -> None:
    done = command(*arguments.split())
    assert done.code == 1
    told = done.err[done.err.index("Hint: ") :]
    assert hint in told
    assert not re.search(r"\w=[\[{\"']|(batch|shapes|arch|target|records)=", told)

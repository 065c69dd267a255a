"""Networks built for any shape: what is compiled when it is first fed, kept, and let go of."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.support.checks import DIRECT
from tests.support.models import Graph, residual_net
from tests.support.shell import Command
from tests.support.sizes import fed, finder, held, image, joined, running
from tvmconv.errors import FeedError, ModelError, ShapeError, TvmconvError
from tvmconv.runtime import any_shape, artifact
from tvmconv.runtime.any_shape import AnyShape, Recipe
from tvmconv.runtime.buckets import Shapes
from tvmconv.runtime.entry import Entry
from tvmconv.specs import OPEN, TensorSpec

ROOT = str(Path(__file__).parents[3])
SMALL, WIDE = (1, 3, 8, 10), (1, 3, 6, 16)


def build(model: onnx.ModelProto, **options: Any) -> tvmconv.Executable:
    return tvmconv.build(model, target="llvm", **{"families": DIRECT, "shapes": "any", **options})


def settle() -> None:
    """Waits for threads that compile."""
    for thread in threading.enumerate():
        if thread.name.startswith("bucket "):
            thread.join()


def shapes_in(exe: tvmconv.Executable) -> set[tuple[int, ...]]:
    """Of a network of one input, the shapes that it has in memory beside those foreseen."""
    assert exe.any_shape is not None
    return {entry.shapes[0] for entry in exe.any_shape.entries()}


def with_a_scalar() -> onnx.ModelProto:
    g = Graph(["n", 8, "h", "w"])
    g.inputs.append(onnx.helper.make_tensor_value_info("gain", 1, []))
    return g.model(g.op("Mul", g.conv("input", 8, 8), "gain", name="louder"))


class Compiler:
    """What compiles, in the place of the real one: gives an entry of ones of any shape, at once or
    when it is let."""

    def __init__(self) -> None:
        self.asked: list[Shapes] = []
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None
        #: As `Entry.separable`; and whether each bucket has weights of its own.
        self.separable = True
        self.own_weights = False

    def __call__(self, recipe: Recipe, shapes: Shapes) -> tuple[Entry, Any]:
        self.asked.append(shapes)
        assert self.go.wait(20)
        if self.error:
            raise self.error
        specs = tuple(
            replace(spec, shape=shape) for spec, shape in zip(recipe.inputs, shapes, strict=True)
        )
        weights = [np.ones(64, "f"), np.full(8, -len(self.asked) if self.own_weights else 2, "f")]
        report = tvmconv.BuildReport("llvm", "none", (), (), {}, batch=shapes[0][0])
        return Entry(specs, specs, b"code", tuple(weights), (), self.separable), report


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    one = Compiler()
    monkeypatch.setattr(any_shape, "compiler", lambda: one)
    yield one
    one.go.set()


def network(
    folder: Path | None = None,
    batches: tuple[int, ...] = (),
    model: bytes = b"m",
    **options: Any,
) -> AnyShape:
    """Of one input of any number and size of images of 3 channels."""
    spec = TensorSpec("x", (OPEN, 3, OPEN), "float32")
    recipe = Recipe(model, options, batches, (spec,), (spec,))
    return AnyShape(recipe, (), None if folder is None else folder / "net")


def batches_of(shares: list[tuple[Entry, Any]]) -> list[tuple[int, int, int]]:
    return [(entry.batch, chunk.start, chunk.count) for entry, chunk in shares]


# --- which bucket, and when it is compiled --------------------------------------------------
def test_a_new_shape_is_compiled_once(compiler: Compiler) -> None:
    one = network()
    assert batches_of(one.shares(((2, 3, 5),))) == [(2, 0, 2)]
    assert batches_of(one.shares(((2, 3, 5),))) == [(2, 0, 2)]
    one.shares(((2, 3, 7),))
    assert compiler.asked == [((2, 3, 5),), ((2, 3, 7),)]


def test_other_batches_serve_while_a_thread_compiles(compiler: Compiler) -> None:
    one = network()
    one.shares(((2, 3, 5),))
    compiler.go.clear()
    for _ in range(3):
        assert batches_of(one.shares(((3, 3, 5),))) == [(2, 0, 2), (2, 2, 1)]
        assert batches_of(one.shares(((1, 3, 5),))) == [(2, 0, 1)]
    compiler.go.set()
    settle()
    # One at a time: images that come in any number do not fill the machine with threads.
    assert compiler.asked == [((2, 3, 5),), ((3, 3, 5),)]
    assert batches_of(one.shares(((3, 3, 5),))) == [(3, 0, 3)]
    assert batches_of(one.shares(((1, 3, 5),))) in ([(3, 0, 1)], [(2, 0, 1)])
    settle()
    assert batches_of(one.shares(((1, 3, 5),))) == [(1, 0, 1)]
    assert len(compiler.asked) == 3


def test_images_that_affect_each_other_are_not_split(compiler: Compiler) -> None:
    compiler.separable = False
    one = network()
    one.shares(((2, 3, 5),))
    assert batches_of(one.shares(((3, 3, 5),))) == [(3, 0, 3)]
    assert compiler.asked == [((2, 3, 5),), ((3, 3, 5),)]


def test_of_a_list_of_batches_those_are_compiled(compiler: Compiler) -> None:
    one = network(batches=(1, 4))
    assert batches_of(one.shares(((3, 3, 5),))) == [(4, 0, 3)]
    compiler.go.clear()
    assert batches_of(one.shares(((9, 3, 5),))) == [(4, 0, 4), (4, 4, 4), (4, 8, 1)]
    compiler.go.set()
    assert batches_of(one.shares(((9, 3, 5),), wait=True))[-1] == (1, 8, 1)
    assert compiler.asked == [((4, 3, 5),), ((1, 3, 5),)]


def test_concurrent_first_feeds_compile_once(compiler: Compiler) -> None:
    one = network()
    compiler.go.clear()
    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(one.get, ((2, 3, 5 + i % 2),)) for i in range(6)]
        while not compiler.asked:
            time.sleep(0.001)
        compiler.go.set()
        entries = [each.result(20) for each in found]
    assert sorted(compiler.asked) == [((2, 3, 5),), ((2, 3, 6),)]
    assert len(set(entries)) == 2


def test_where_no_thread_can_be_started_others_serve(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one = network()
    one.shares(((2, 3, 5),))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert batches_of(one.shares(((3, 3, 5),))) == [(2, 0, 2), (2, 2, 1)]
    assert batches_of(one.shares(((3, 3, 5),), wait=True)) == [(3, 0, 3)]


def test_an_error_is_everyones_who_waits_and_not_kept(compiler: Compiler) -> None:
    one = network()
    compiler.error = ModelError("no such size")
    for _ in range(2):
        with pytest.raises(ModelError, match="no such size"):
            one.shares(((2, 3, 5),))
    compiler.error = None
    assert batches_of(one.shares(((2, 3, 5),))) == [(2, 0, 2)]


def test_what_a_thread_can_not_compile_is_tried_once(
    compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    one = network()
    one.shares(((2, 3, 5),))
    compiler.error = ModelError("no such batch")
    for _ in range(3):
        assert len(one.shares(((3, 3, 5),))) == 2
        settle()
    assert len(compiler.asked) == 2
    assert "bucket of 3x3x5 can't be compiled: no such batch" in caplog.text


# --- the folder, and the limit --------------------------------------------------------------
def test_the_folder_is_beside_the_artifact_or_the_knobs(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(tmp_path).get(((1, 3, 4),))
    assert [path.parent.name for path in tmp_path.rglob("*.bucket")] == ["net.buckets"]
    monkeypatch.setenv("TVMCONV_BUCKETS", str(tmp_path / "mine"))
    network(tmp_path).get(((1, 3, 4),))
    assert len(list((tmp_path / "mine").glob("*-1x3x4.bucket"))) == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_a_bucket_is_found_in_the_folder_again(compiler: Compiler, tmp_path: Path) -> None:
    made = network(tmp_path).get(((1, 3, 4),))
    found = network(tmp_path).get(((1, 3, 4),))
    assert len(compiler.asked) == 1
    assert (found.shapes, found.code, found.separable) == (((1, 3, 4),), b"code", True)
    assert all(map(np.array_equal, found.weights, made.weights))


@pytest.mark.parametrize(
    "other",
    [{"model": b"n"}, {"precision": "bf16"}, {"batches": (1,)}, {"tvmconv": "0.0"}, {"pair": {}}],
    ids=str,
)
def test_a_bucket_of_something_else_is_never_used(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    shapes = ((1, 3, 4),)
    first = network(tmp_path)
    first.get(shapes)
    if "tvmconv" in other:
        monkeypatch.setattr(any_shape, "__version__", other.pop("tvmconv"))
    if "pair" in other:
        monkeypatch.setattr(any_shape, "TVM_PAIR", other.pop("pair"))
    network(tmp_path, **other).get(shapes)
    assert len(compiler.asked) == 2
    # Nor by the name of a file.
    another = network(tmp_path, **other)
    one, two = (each._cache.path(shapes) for each in (first, another))
    assert one is not None
    assert two is not None
    os.replace(one, two)
    another.get(shapes)
    assert len(compiler.asked) == 3


@pytest.mark.parametrize("damage", ["text", "truncated", "shapes", "weights", "identity"])
def test_a_damaged_file_is_left_out_and_written_anew(
    compiler: Compiler, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    network(tmp_path).get(((1, 3, 4),))
    (path,) = tmp_path.rglob("*.bucket")
    stored = artifact.read(path)
    if damage == "text":
        path.write_bytes(b"hello")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "shapes":
        stored.manifest["entries"][0]["inputs"][0]["shape"] = [1, 3, 5]
        artifact.write(stored, path)
    elif damage == "identity":
        stored.manifest["identity"] = "another"
        artifact.write(stored, path)
    else:
        manifest = {**stored.manifest, "weights": 1}
        artifact.write(artifact.Artifact(manifest, stored.codes, stored.weights[:1]), path)
    assert network(tmp_path).get(((1, 3, 4),)).shapes == ((1, 3, 4),)
    assert "is left out" in caplog.text
    assert len(compiler.asked) == 2
    network(tmp_path).get(((1, 3, 4),))
    assert len(compiler.asked) == 2


def test_the_least_recently_used_goes(
    compiler: Compiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tvmconv")
    monkeypatch.setenv("TVMCONV_BUCKETS_MOST", "2")
    one = network(tmp_path)
    for width in (4, 5, 4, 6):
        one.get(((1, 3, width),))
        time.sleep(0.01)
    assert {entry.shapes[0][2] for entry in one.entries()} == {4, 6}
    kept = sorted(path.name.split("-")[1] for path in tmp_path.rglob("*.bucket"))
    assert kept == ["1x3x4.bucket", "1x3x6.bucket"]
    assert caplog.text.count("compiled a bucket of 1x3x") == 3
    assert "let go of the bucket of 1x3x5" in caplog.text
    assert caplog.text.count("1x3x5.bucket, the least recently used of more than 2") == 1
    one.get(((1, 3, 5),))
    assert len(compiler.asked) == 4


@pytest.mark.parametrize("most", ["0", "-1", "many", "1.5"])
def test_a_limit_is_a_number(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_BUCKETS_MOST", most)
    with pytest.raises(TvmconvError, match="TVMCONV_BUCKETS_MOST"):
        network()


def test_a_folder_that_can_not_be_written(
    compiler: Compiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "net.buckets").write_text("a file in the way")
    one = network(tmp_path)
    assert one.get(((1, 3, 4),)) is one.get(((1, 3, 4),))
    assert "kept in memory alone" in caplog.text


def test_equal_weights_are_one_array_and_are_not_in_the_folder_twice(
    compiler: Compiler, tmp_path: Path
) -> None:
    first = Compiler()(network().recipe, ((1, 3, 4),))[0]
    recipe = network().recipe
    compiler.own_weights = True
    one = AnyShape(recipe, [first], tmp_path / "net")
    entries = [one.get(((1, 3, width),)) for width in (5, 6)]
    assert all(entry.weights[0] is first.weights[0] for entry in entries)
    for path in tmp_path.rglob("*.bucket"):
        assert len(artifact.read(path).weights) == 1
    again = AnyShape(recipe, [first], tmp_path / "net").get(((1, 3, 6),))
    assert again.weights[0] is first.weights[0]
    assert np.array_equal(again.weights[1], entries[1].weights[1])
    assert len(compiler.asked) == 2
    # Without those weights, the file is of no use.
    AnyShape(recipe, [], tmp_path / "net").get(((1, 3, 6),))
    assert len(compiler.asked) == 3


def test_without_a_compiler_the_shapes_there_are_are_named(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(tmp_path).get(((1, 3, 4),))
    network(tmp_path).get(((1, 3, 9),))
    monkeypatch.setattr(any_shape.tvm.base, "_RUNTIME_ONLY", True)
    one = network(tmp_path)
    assert one.get(((1, 3, 4),)).code == b"code"
    with pytest.raises(FeedError) as error:
        one.get(((1, 3, 8),))
    assert "x: float32[1, 3, 8] is compiled yet" in error.value.what
    assert "closest first, x: float32[1, 3, 9]; x: float32[1, 3, 4]" in error.value.note
    assert "runtime" in error.value.hint
    with pytest.raises(FeedError, match="there are none yet"):
        network(tmp_path / "other").get(((1, 3, 8),))


# --- whole networks -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return build(finder())


def test_a_network_of_any_shape(exe: tvmconv.Executable) -> None:
    assert exe.inputs[0].shape == (OPEN, 3, OPEN, OPEN)
    assert "any shape: input: float32[?, 3, ?, ?] -> found: float32[?, 8, ?, ?]" in repr(exe)
    assert "no shape is compiled yet" in str(exe.report)
    for shape in (SMALL, WIDE):
        held(finder(), image(*shape), exe.run(image(*shape)))
        binding = exe.bind(image(*shape))
        held(finder(), image(*shape), {name: x.numpy() for name, x in binding.outputs.items()})
    for n in (3, 1):
        feeds = image(n, *SMALL[1:])
        held(finder(), feeds, exe.run(feeds))
    settle()
    assert shapes_in(exe) == {SMALL, WIDE, (3, *SMALL[1:])}
    held(finder(), feeds, exe.run(feeds))
    assert exe.bucket(shapes={"input": WIDE}).report.shapes == {"input": WIDE}
    assert tvmconv.compare(finder(), exe, image(*SMALL)).passed()


def test_what_is_let_go_of_leaves_the_device(
    exe: tvmconv.Executable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exe.any_shape, "_most", 1)
    feeds = image(1, 3, 4, 4)
    held(finder(), feeds, exe.run(feeds))
    assert [entry.shapes[0] for entry in exe._loaded.machines] == [(1, 3, 4, 4)]
    (entry,) = exe._loaded.machines
    assert exe._loaded.weights.keys() == {id(array) for array in entry.weights}


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        (np.zeros((1, 4, 8, 8), "f"), "float32[1 or more, 3, 1 or more, 1 or more]"),
        (np.zeros((1, 3, 8), "f"), "float32[1 or more, 3, 1 or more, 1 or more]"),
        (np.zeros((1, 3, 0, 8), "f"), "got float32[1, 3, 0, 8]"),
        (np.zeros((0, 3, 8, 8), "f"), "got float32[0, 3, 8, 8]"),
        (np.zeros((1, 3, 8, 8)), "got float64"),
    ],
)
def test_feeds_that_no_bucket_could_take(exe: tvmconv.Executable, feed: Any, says: str) -> None:
    with pytest.raises(FeedError) as error:
        exe.run({"input": feed})
    assert says in str(error.value)


def test_what_needs_a_shape_says_so() -> None:
    exe = build(finder())
    for call in (exe.bind, lambda: tvmconv.compare(finder(), exe), lambda: list(exe.each_bucket())):
        with pytest.raises(FeedError, match="none was compiled with it"):
            call()
    with pytest.raises(ShapeError, match="none to report of"):
        tvmconv.inspect(finder(), target="llvm", shapes="any")


def test_a_scalar_is_fed_as_it_is() -> None:
    exe = build(with_a_scalar())
    for gain in (2.0, 3.0):
        feeds = {**image(1, 8, 4, 5), "gain": np.array(gain, "f")}
        held(with_a_scalar(), feeds, exe.run(feeds))


def test_a_size_that_the_model_can_not_have_is_refused_when_it_is_fed() -> None:
    g = Graph([1, 8, "h", 4])
    x = g.op("Reshape", g.conv("input", 8, 8), g.constant(np.array([1, 8, 16])))
    exe = build(g.model(x))
    assert exe.run(image(1, 8, 4, 4))[x].shape == (1, 8, 16)
    with pytest.raises(ShapeError, match="can't make"):
        exe.run(image(1, 8, 5, 4))


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (residual_net(1), {}, "leaves nothing open"),
        (residual_net("batch"), {"batch": 2}, "leaves nothing open"),
        (residual_net("batch"), {"batch": [1, 2]}, "nothing open but its batch"),
        (residual_net(1), {"batch": 2}, "fixed first dimension of 1"),
        (finder(), {"batch": [2, 2]}, "listed twice"),
        (finder(), {"batch": 0}, "at least one element"),
        (finder(), {"shapes": [{"input": (1, 4, 8, 8)}, "any"]}, "can't have the shape"),
        (
            finder(),
            {"shapes": [{"input": (2, 3, 8, 8)}, "any"], "batch": 1},
            "can't have the shape",
        ),
        (finder(), {"shapes": ["any", "all"]}, "by input name"),
        (finder(), {"calibrate": image(*SMALL)}, "nothing to calibrate"),
        (with_a_scalar(), {"batch": [1, 2]}, "'gain' does not have the images as its first"),
    ],
)
def test_what_is_refused_before_anything_is_fed(
    model: onnx.ModelProto, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(TvmconvError) as error:
        build(model, **options)
    assert says in str(error.value)


@pytest.mark.slow
def test_foreseen_shapes_and_any_others_of_a_list_of_batches(tmp_path: Path) -> None:
    built = build(finder(), batch=[1, 3], shapes=[{"input": (3, *SMALL[1:])}, "any"])
    assert built.inputs[0].shape == (3, *SMALL[1:])
    assert "other shapes are compiled" in str(built.report)
    built.save(tmp_path / "net")
    exe = tvmconv.load(tmp_path / "net")
    assert len(exe.entries) == 2
    for n, shape in ((2, SMALL), (5, SMALL), (4, WIDE), (1, WIDE)):
        feeds = image(n, *shape[1:])
        held(finder(), feeds, exe.run(feeds))
    settle()
    assert shapes_in(exe) == {WIDE, (3, *WIDE[1:])}
    for n in (4, 7):
        held(finder(), image(n, *WIDE[1:]), exe.run(image(n, *WIDE[1:])))
    # Weights of the artifact are not in the folder again.
    for path in (tmp_path / "net.buckets").iterdir():
        assert not artifact.read(path).weights
    feeds = [image(n, *shape[1:]) for n, shape in ((2, SMALL), (4, WIDE), (3, (1, 3, 4, 4)))]
    for one, results in zip(feeds, exe.map(feeds), strict=True):
        held(finder(), one, results)
    seen = tvmconv.inspect(finder(), target="llvm", shapes=[{"input": SMALL}, "any"])
    assert seen.inputs[0].shape == SMALL


@pytest.mark.slow
def test_several_inputs_parts_layouts_and_calibration() -> None:
    exe = build(joined(), batch=1)
    for height in (4, 6):
        shapes = {"input": (1, 8, 6, 6), "other": (1, 8, height, 5), "gain": (1, 8, 1, 1)}
        held(joined(), fed(shapes), exe.run(fed(shapes)))
    exe = build(running())
    for shape in (SMALL, WIDE):
        held(running(), image(*shape), exe.run(image(*shape)))
    assert exe.in_parts
    exe = build(finder(), io_layout="NHWC", io_dtype="float16")
    ours = exe.run({"input": image(*WIDE)["input"].transpose(0, 2, 3, 1).astype("float16")})
    assert ours["found"].shape == (1, 3, 8, 8)
    tiny = {"input": image(*WIDE)["input"] * 1e-6}
    exe = build(finder(), shapes=[{"input": WIDE}, "any"], calibrate=tiny, families=None)
    small = {"input": image(*SMALL)["input"] * 1e-6}
    found = tvmconv.compare(finder(), exe, small)
    assert found.passed(), str(found)
    assert exe.bucket(shapes={"input": SMALL}).report.convs[0].kept


AGAIN = """
import logging, sys
import numpy as np
logging.basicConfig(level=logging.INFO)
import tvmconv
exe = tvmconv.load(sys.argv[1])
for shape in ((1, 3, 8, 10), (2, 3, 6, 16)):
    x = np.random.default_rng(1).standard_normal(shape).astype("f")
    np.savez(f"{sys.argv[2]}-{shape[0]}.npz", **exe.run({"input": x}))
"""


def start(path: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", AGAIN, path, out],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
    )


def results(out: Path) -> None:
    for shape in (SMALL, (2, *WIDE[1:])):
        held(finder(), image(*shape), dict(np.load(f"{out}-{shape[0]}.npz")))


@pytest.mark.slow
def test_processes_share_a_folder(exe: tvmconv.Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "net")
    refused = start(tmp_path / "net", tmp_path / "no", TVM_USE_RUNTIME_LIB="1")
    said = refused.communicate()[1]
    assert refused.returncode == 1
    assert "FeedError: no bucket of input: float32[1, 3, 8, 10] is compiled yet" in said
    # Two that meet the same shapes at the same time.
    both = [start(tmp_path / "net", tmp_path / name) for name in "ab"]
    for one, name in zip(both, "ab", strict=True):
        assert "compiled a bucket of 1x3x8x10" in one.communicate()[1]
        assert one.returncode == 0
        results(tmp_path / name)
    # One that only has TVM's runtime finds them all; so does one that could compile.
    for name, environment in (("c", {"TVM_USE_RUNTIME_LIB": "1"}), ("d", {})):
        one = start(tmp_path / "net", tmp_path / name, **environment)
        assert "compiled" not in one.communicate()[1]
        assert one.returncode == 0
        results(tmp_path / name)


@pytest.mark.slow
def test_the_page_of_sizes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its blocks run, in order."""
    monkeypatch.chdir(tmp_path)
    model = residual_net("n")
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, "model.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    onnx.save(model, "open.onnx")
    text = (Path(ROOT) / "docs" / "sizes.md").read_text()
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "python"]
    found: dict[str, Any] = {}
    for kind, block in blocks:
        if kind == "python":
            exec(block, found)
        else:
            done = command(*shlex.split(block)[1:])
            assert done.code == 0, done.err
    assert np.array_equal(found["small"], found["again"])
    assert len(list(Path("any.tvmconv.buckets").iterdir())) == 1


# --- the command line -----------------------------------------------------------------------
@pytest.mark.slow
def test_commands_take_any(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(finder(), "model.onnx")
    np.save("small.npy", image(*SMALL)["input"])
    done = command(
        *("build", "model.onnx", "-o", "net", "--target", "llvm", "--families", "direct"),
        *("--shape", "any"),
    )
    assert done.code == 0, done.err
    assert "each is when it is first fed" in done.out
    done = command("run", "net", "--input", "input=small.npy", "--json")
    assert done.json["outputs"][0]["shape"] == [1, 8, 4, 5]
    assert len(list(Path("net.buckets").iterdir())) == 1
    done = command("compare", "model.onnx", "net", "--input", "input=small.npy")
    assert done.code == 0, done.err
    done = command("compare", "model.onnx", "net")
    assert (done.code, "--input name=array.npy" in done.err) == (1, True)
    done = command("inspect", "model.onnx", "--target", "llvm", "--shape", "any")
    assert (done.code, "--shape input=1,3,224,224" in done.err) == (1, True)

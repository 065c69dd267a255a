"""Networks built for several batches: the rule, what comes out, what is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import tvmconv
from tests.support import networks
from tests.support.models import Array, Graph, random_feed, residual_net
from tests.support.thinned import thinned
from tvmconv.errors import FeedError
from tvmconv.reports.collect import comparison
from tvmconv.runtime import artifact
from tvmconv.runtime.buckets import Chunk, plan_batches
from tvmconv.runtime.feeds import images, join

IMAGES = random_feed((40, 3, 12, 12))["input"]


# --- the rule -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [(1, 0, 1)]),
        (2, [(8, 0, 2)]),
        (8, [(8, 0, 8)]),
        (9, [(32, 0, 9)]),
        (32, [(32, 0, 32)]),
        (33, [(32, 0, 32), (1, 32, 1)]),
        (64, [(32, 0, 32), (32, 32, 32)]),
        (70, [(32, 0, 32), (32, 32, 32), (8, 64, 6)]),
    ],
)
def test_the_smallest_that_fits_or_chunks_of_the_largest(
    n: int, expected: list[tuple[int, int, int]]
) -> None:
    assert plan_batches(n, (1, 8, 32)) == tuple(Chunk(*chunk) for chunk in expected)


@given(
    n=st.integers(1, 500),
    buckets=st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True),
)
def test_every_image_runs_once_and_in_order(n: int, buckets: list[int]) -> None:
    chunks = plan_batches(n, buckets)
    assert [i for c in chunks for i in range(c.start, c.start + c.count)] == list(range(n))
    *whole, last = chunks
    assert all(chunk.bucket == chunk.count == max(buckets) for chunk in whole)
    assert last.bucket in buckets
    assert 1 <= last.count <= last.bucket
    assert not any(last.count <= bucket < last.bucket for bucket in buckets)


@given(n=st.integers(1, 20), start=st.integers(0, 19), count=st.integers(1, 30))
def test_images_are_the_same_of_an_array_and_of_a_tensor(n: int, start: int, count: int) -> None:
    start = min(start, n - 1)
    array = np.arange(n * 6, dtype="float32").reshape(n, 3, 2)
    numbers = [start + i % (n - start) for i in range(count)]
    assert np.array_equal(images(array, start, count), array[numbers])
    tensor = images(tvm.runtime.tensor(array), start, count)
    assert np.array_equal(tensor.numpy(), array[numbers])


def test_join_drops_what_filled_a_batch_up() -> None:
    parts = [np.full((4, 2), i, "float16") for i in range(3)]
    expected = np.array([0, 0, 0, 0, 1, 1, 2], "float16")[:, None].repeat(2, 1)
    counts = [4, 2, 1]
    assert np.array_equal(join(parts, counts), expected)
    tensors = [tvm.runtime.tensor(part) for part in parts]
    assert np.array_equal(join(tensors, counts).numpy(), expected)
    assert join(tensors[:1], [3]).shape == (3, 2)


# --- running --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net("batch"), target="llvm", batch=[8, 1, 32])


@pytest.fixture(scope="module")
def one_by_one() -> Array:
    alone = tvmconv.build(residual_net("batch"), target="llvm", batch=1)
    return np.concatenate([alone(IMAGES[i : i + 1]) for i in range(len(IMAGES))])


@pytest.mark.parametrize("n", thinned([3, 1, 8, 33, 9, 32, 40], 3))
def test_any_batch(exe: tvmconv.Executable, one_by_one: Array, n: int) -> None:
    ours = exe(IMAGES[:n])
    # No sum crosses images, and their order in it does not depend on the batch.
    assert np.array_equal(ours, one_by_one[:n])
    session = comparison.onnxruntime.InferenceSession(residual_net("batch").SerializeToString())
    (reference,) = session.run(None, {"input": IMAGES[:n]})
    assert np.linalg.norm(ours - reference) <= 2e-3 * np.linalg.norm(reference)


@pytest.mark.parametrize("n", [3, 8, 40])
def test_tensors_in_tensors_out(exe: tvmconv.Executable, one_by_one: Array, n: int) -> None:
    result = exe(tvm.runtime.tensor(IMAGES[:n]))
    assert isinstance(result, tvm.runtime.Tensor)
    assert np.array_equal(np.from_dlpack(result), one_by_one[:n])


def test_results_outlive_the_next_run(exe: tvmconv.Executable, one_by_one: Array) -> None:
    kept = exe(tvm.runtime.tensor(IMAGES[:3]))
    exe(tvm.runtime.tensor(IMAGES[5:9]))
    assert np.array_equal(kept.numpy(), one_by_one[:3])


def test_an_image_that_is_not_finite_spoils_no_other(
    exe: tvmconv.Executable, one_by_one: Array
) -> None:
    """Not even where it fills a batch up."""
    fed = IMAGES[:3].copy()
    fed[0] = np.nan
    found = exe(fed)
    assert np.isnan(found[0]).any()
    assert np.array_equal(found[1:], one_by_one[1:3])


def two_inputs() -> onnx.ModelProto:
    """ "input" [batch, 8, 6, 6] and "scale" [batch, 1], to "scaled" and the fp32 "pooled"."""
    g = Graph(["batch", 8, 6, 6])
    g.inputs.append(helper.make_tensor_value_info("scale", 1, ["batch", 1]))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", g.conv("input", 8, 16)), name="pooled")
    return g.model(pooled, g.op("Mul", pooled, "scale", name="scaled"))


def test_several_inputs_and_outputs() -> None:
    exe = tvmconv.build(two_inputs(), target="llvm", batch=[2, 4])
    rng = np.random.default_rng(3)
    feeds = {
        "input": rng.standard_normal((7, 8, 6, 6)).astype("f"),
        "scale": rng.standard_normal((7, 1)).astype("f"),
    }
    found = exe.run(feeds)
    assert [array.shape for array in found.values()] == [(7, 16), (7, 16)]
    np.testing.assert_allclose(found["scaled"], found["pooled"] * feeds["scale"], rtol=1e-6)
    with pytest.raises(FeedError, match="7 of 'input', 3 of 'scale'"):
        exe.run({**feeds, "scale": feeds["scale"][:3]})


def test_names_that_are_no_identifiers() -> None:
    exe = tvmconv.build(networks.small(), target="llvm", batch=[1, 3])
    fed = {"x:0": IMAGES[:5]}
    assert {k: v.shape[0] for k, v in exe.run(fed).items()} == {"wide/y": 5, "pooled": 5}
    assert tvmconv.compare(networks.small(), exe).passed()


def test_a_list_of_one_takes_any_batch(one_by_one: Array) -> None:
    exe = tvmconv.build(residual_net("batch"), target="llvm", batch=[4])
    assert exe.batches == (4,)
    assert np.array_equal(exe(IMAGES[:6]), one_by_one[:6])


def test_a_number_takes_that_batch_alone() -> None:
    exe = tvmconv.build(residual_net("batch"), target="llvm", batch=4)
    assert exe.batches == (4,)
    with pytest.raises(FeedError, match=r"got float32\[6, 3, 12, 12\], expected float32\[4, "):
        exe(IMAGES[:6])


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        (IMAGES[:0], "got float32[0, 3, 12, 12], expected float32[1 or more, 3, 12, 12]"),
        (IMAGES[0], "got float32[3, 12, 12], expected"),
        (IMAGES[:, :, :9], "got float32[40, 3, 9, 12], expected"),
        (IMAGES.astype("float64"), "got float64[40, 3, 12, 12], expected"),
        (np.float32(1), "got float32[], expected"),
    ],
)
def test_bad_feeds(exe: tvmconv.Executable, feed: Any, says: str) -> None:
    with pytest.raises(FeedError) as error:
        exe(np.asarray(feed))
    assert says in str(error.value)


# --- what it is -----------------------------------------------------------------------------
def test_it_speaks_for_its_largest_bucket(exe: tvmconv.Executable) -> None:
    assert exe.batches == (1, 8, 32)
    assert exe.inputs[0].shape == (32, 3, 12, 12)
    assert exe.outputs[0].shape == (32, 10)
    assert "buckets 1, 8, 32: input: float32[32, 3, 12, 12]" in repr(exe)


def test_a_bucket_is_an_executable(
    exe: tvmconv.Executable, one_by_one: Array, tmp_path: Path
) -> None:
    eight = exe.bucket(8)
    assert eight.inputs[0].shape == (8, 3, 12, 12)
    assert (eight.batches, eight.report.batch, eight.report.smaller) == ((8,), 8, ())
    assert np.array_equal(eight(IMAGES[:8]), one_by_one[:8])
    with pytest.raises(FeedError, match="expected float32"):
        eight(IMAGES[:3])
    eight.save(tmp_path / "eight")
    loaded = tvmconv.load(tmp_path / "eight")
    assert loaded.batches == (8,)
    assert np.array_equal(loaded(IMAGES[:8]), one_by_one[:8])
    with pytest.raises(FeedError, match=r"no bucket of 4\n.*1, 8, 32"):
        exe.bucket(4)


def test_weights_are_stored_once(exe: tvmconv.Executable, tmp_path: Path) -> None:
    alone = tvmconv.build(residual_net("batch"), target="llvm", batch=32)
    assert len(exe.weights) == len(alone.weights)
    ids = {id(array) for array in exe.weights}
    assert all({id(array) for array in entry.weights} == ids for entry in exe.entries)
    assert exe.report.stored_weight_bytes == alone.report.weight_bytes
    exe.save(tmp_path / "network")
    assert len(artifact.read(tmp_path / "network").weights) == len(alone.weights)


def test_weights_are_on_the_device_once(exe: tvmconv.Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    loaded(IMAGES[:1])
    before = dict(loaded._loaded.weights)
    loaded(IMAGES)
    loaded.bucket(8)(IMAGES[:8])
    assert len(before) == len(loaded.weights)
    assert loaded._loaded.weights == before
    assert len(loaded._loaded.machines) == 3


def test_a_bucket_that_is_not_run_is_not_loaded(exe: tvmconv.Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    loaded(IMAGES[:2])
    assert [entry.batch for entry in loaded._loaded.machines] == [8]


def test_weights_that_only_another_bucket_takes_are_not_saved(
    exe: tvmconv.Executable, one_by_one: Array, tmp_path: Path
) -> None:
    one, eight, largest = exe.entries
    # Built as it never is: the bucket of 8 takes an array that no kernel reads.
    odd = replace(exe, entries=(one, replace(eight, weights=(np.zeros(7, "f"),)), largest))
    odd.bucket(1).save(tmp_path / "one")
    assert len(tvmconv.load(tmp_path / "one").weights) == len(exe.weights)
    assert np.array_equal(tvmconv.load(tmp_path / "one")(IMAGES[:1]), one_by_one[:1])


def test_load_gives_the_same_network(exe: tvmconv.Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "network")
    loaded = tvmconv.load(tmp_path / "network")
    assert loaded.report == exe.report
    assert repr(loaded) == repr(exe)
    assert np.array_equal(loaded(IMAGES), exe(IMAGES))

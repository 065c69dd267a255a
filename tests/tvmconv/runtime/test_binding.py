"""Inputs and outputs that stay in place, and streams of batches, on the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

import tvmconv
from tests.support import networks
from tests.support.models import Array, Graph, random_feed, residual_net
from tvmconv.errors import FeedError

SHAPE = (1, 3, 12, 12)


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net(1), target="llvm")


def test_a_run_reads_what_is_in_the_inputs(exe: tvmconv.Executable) -> None:
    first, second = random_feed(SHAPE, 1), random_feed(SHAPE, 2)
    binding = exe.bind(first)
    binding.run()
    assert np.array_equal(binding.outputs["output"].numpy(), exe.run(first)["output"])
    # Through the same memory as NumPy sees it, and by a copy.
    inside, result = (
        np.from_dlpack(one["x"]) for one in
        ({"x": binding.inputs["input"]}, {"x": binding.outputs["output"]})
    )  # fmt: skip
    binding.inputs["input"].copyfrom(second["input"])
    assert np.array_equal(inside, second["input"])
    binding.run()
    assert np.array_equal(result, exe.run(second)["output"])


def test_inputs_begin_as_zeros_and_feeds_are_copied(exe: tvmconv.Executable) -> None:
    binding = exe.bind()
    binding.run()
    zeros = exe.run({"input": np.zeros(SHAPE, "f")})["output"]
    assert np.array_equal(binding.outputs["output"].numpy(), zeros)
    given = tvm.runtime.tensor(random_feed(SHAPE)["input"])
    bound = exe.bind({"input": given})
    given.copyfrom(np.zeros(SHAPE, "f"))
    bound.run()
    assert np.array_equal(bound.outputs["output"].numpy(), exe.run(random_feed(SHAPE))["output"])


def test_bindings_have_memory_of_their_own(exe: tvmconv.Executable) -> None:
    feeds = [random_feed(SHAPE, seed) for seed in range(4)]
    bindings = [exe.bind(feed) for feed in feeds]
    for binding in bindings:
        binding.run()
    exe.run(random_feed(SHAPE, 9))
    for binding, feed in zip(bindings, feeds, strict=True):
        assert np.array_equal(binding.outputs["output"].numpy(), exe.run(feed)["output"])


def test_several_inputs_and_outputs() -> None:
    exe = tvmconv.build(networks.small(2), target="llvm", io_dtype="float16", io_layout="NHWC")
    feed = {"x:0": random_feed((2, 12, 12, 3), dtype="float16")["input"]}
    binding = exe.bind(feed)
    binding.run()
    assert list(binding.inputs) == ["x:0"]
    for name, array in exe.run(feed).items():
        assert np.array_equal(binding.outputs[name].numpy(), array)


@pytest.mark.parametrize("feeds", [{}, {"input": np.zeros((2, 3, 12, 12), "f")}, [1]])
def test_bad_feeds_are_not_bound(exe: tvmconv.Executable, feeds: Any) -> None:
    with pytest.raises(FeedError):
        exe.bind(feeds)


def test_of_buckets_the_largest_is_bound() -> None:
    exe = tvmconv.build(residual_net("batch"), target="llvm", batch=[1, 4])
    assert exe.bind().outputs["output"].shape == (4, 10)
    single = exe.bucket(1).bind(random_feed(SHAPE))
    single.run()
    assert np.array_equal(single.outputs["output"].numpy(), exe.run(random_feed(SHAPE))["output"])


def test_threads_may_share_a_network(exe: tvmconv.Executable) -> None:
    feeds = [random_feed(SHAPE, seed) for seed in range(6)]
    expected = [exe.run(feed)["output"] for feed in feeds]

    def bound(feed: dict[str, Array]) -> Array:
        binding = exe.bind(feed)
        for _ in range(3):
            binding.run()
        return np.asarray(binding.outputs["output"].numpy())

    with ThreadPoolExecutor(3) as pool:
        assert all(map(np.array_equal, pool.map(bound, feeds), expected))


# --- streams --------------------------------------------------------------------------------
def test_a_stream_gives_what_runs_give_in_order(exe: tvmconv.Executable) -> None:
    feeds = [random_feed(SHAPE, seed) for seed in range(7)]
    found = list(exe.map(iter(feeds)))
    assert len(found) == 7
    for feed, results in zip(feeds, found, strict=True):
        assert np.array_equal(results["output"], exe.run(feed)["output"])
    assert list(exe.map([])) == []


def failing(error: Exception) -> Iterator[dict[str, Array]]:
    yield random_feed(SHAPE, 1)
    yield random_feed(SHAPE, 2)
    raise error


def test_errors_come_where_they_happen(exe: tvmconv.Executable) -> None:
    bad = [random_feed(SHAPE, 1), random_feed(SHAPE, 2), {"input": np.zeros(3, "f")}]
    for batches, kind in ((bad, FeedError), (failing(OSError("disk")), OSError)):
        results = exe.map(batches)
        for seed in (1, 2):
            expected = exe.run(random_feed(SHAPE, seed))["output"]
            assert np.array_equal(next(results)["output"], expected)
        with pytest.raises(kind):
            next(results)


def test_saved_networks_are_bound_too(exe: tvmconv.Executable, tmp_path: Path) -> None:
    exe.save(tmp_path / "network")
    binding = tvmconv.load(tmp_path / "network").bind(random_feed(SHAPE))
    binding.run()
    assert np.array_equal(binding.outputs["output"].numpy(), exe.run(random_feed(SHAPE))["output"])


def test_an_output_that_is_an_input() -> None:
    g = Graph([1, 8, 6, 6])
    exe = tvmconv.build(g.model(g.conv("input", 8, 8), "input"), target="llvm")
    feed = random_feed((1, 8, 6, 6))
    binding = exe.bind(feed)
    binding.run()
    assert np.array_equal(binding.outputs["input"].numpy(), feed["input"])

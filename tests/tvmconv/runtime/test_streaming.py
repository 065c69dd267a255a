"""The slots of a stream of batches, on the emulator: its streams copy at once, in order."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tvm

import tvmconv
from tests.support import networks
from tests.support.models import Array, random_feed, residual_net
from tvmconv.errors import FeedError
from tvmconv.runtime import streaming

SHAPE = (2, 3, 12, 12)
#: What was enqueued and waited for, in order.
DIARY: list[str] = []


class FakeStream:
    made = 0

    def __init__(self) -> None:
        self.name = ("in", "compute", "out")[FakeStream.made % 3]
        FakeStream.made += 1
        self.handle = ctypes.c_void_p(1)

    def after(self, event: FakeEvent) -> None:
        DIARY.append(f"{self.name} after {event.number}")

    def copy(self, to: int, source: int, count: int) -> None:
        DIARY.append(self.name)
        ctypes.memmove(to, source, count)

    def wait(self) -> None:
        DIARY.append(f"{self.name} done")


class FakeEvent:
    made = 0

    def __init__(self) -> None:
        self.number = FakeEvent.made
        FakeEvent.made += 1

    def record(self, _: Any) -> FakeEvent:
        return self

    def wait(self) -> None:
        DIARY.append(f"wait {self.number}")


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    DIARY.clear()
    FakeStream.made = FakeEvent.made = 0
    monkeypatch.setattr(streaming, "Stream", FakeStream)
    monkeypatch.setattr(streaming, "Event", FakeEvent)
    monkeypatch.setattr(streaming, "pinned", lambda shape, dtype: np.full(shape, 7, dtype))


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(residual_net(2), target="llvm")


@pytest.fixture(scope="module")
def buckets() -> tvmconv.Executable:
    return tvmconv.build(networks.small(), target="llvm", batch=[1, 4])


def check(exe: tvmconv.Executable, feeds: Sequence[dict[str, Array]]) -> None:
    found = list(streaming.stream_batches(exe, iter(feeds)))
    assert len(found) == len(feeds)
    for feed, results in zip(feeds, found, strict=True):
        expected = exe.run(feed)
        assert list(results) == list(expected)
        for name, array in expected.items():
            assert np.array_equal(results[name], array)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 8])
def test_results_in_order(exe: tvmconv.Executable, count: int) -> None:
    check(exe, [random_feed(SHAPE, seed) for seed in range(count)])
    assert DIARY[-3:] == ["in done", "compute done", "out done"]


@pytest.mark.parametrize("counts", [[4, 1, 9, 2, 4, 17, 3, 1]])
def test_any_number_of_images(buckets: tvmconv.Executable, counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x:0": rng.standard_normal((n, 3, 12, 12)).astype("f")} for n in counts]
    check(buckets, feeds)


def test_the_next_is_started_before_the_one_before_is_waited_for(exe: tvmconv.Executable) -> None:
    results = streaming.stream_batches(exe, (random_feed(SHAPE, seed) for seed in range(5)))
    next(results)
    begun = ["in", "compute after", "out after", "out"]
    events = [entry.rstrip("0123456789 ") for entry in DIARY]
    assert events == begun * 3 + ["wait"]
    next(results)
    assert [entry.rstrip("0123456789 ") for entry in DIARY[13:]] == [*begun, "wait"]


def test_large_arrays_are_copied_by_several_threads(
    exe: tvmconv.Executable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PIECE_BYTES", 16)
    monkeypatch.setattr(streaming, "COPY_THREADS", 3)
    check(exe, [random_feed(SHAPE, seed) for seed in range(5)])


def test_results_outlive_their_slot(exe: tvmconv.Executable) -> None:
    feeds = [random_feed(SHAPE, seed) for seed in range(6)]
    results = streaming.stream_batches(exe, feeds)
    first = next(results)["output"]
    copy = first.copy()
    for later in results:
        assert not np.array_equal(later["output"], copy)
    assert np.array_equal(first, copy)


def test_a_feed_may_be_written_again_once_the_next_is_asked_for(exe: tvmconv.Executable) -> None:
    feed = random_feed(SHAPE)

    def batches() -> Iterator[dict[str, Array]]:
        for seed in range(5):
            feed["input"][...] = random_feed(SHAPE, seed)["input"]
            yield feed

    found = list(streaming.stream_batches(exe, batches()))
    for seed, results in enumerate(found):
        assert np.array_equal(results["output"], exe.run(random_feed(SHAPE, seed))["output"])


def test_what_lies_on_the_device_is_run_in_its_turn(exe: tvmconv.Executable) -> None:
    feeds: list[Any] = [random_feed(SHAPE, seed) for seed in range(3)]
    feeds[1] = {"input": tvm.runtime.tensor(feeds[1]["input"])}
    _, second, third = streaming.stream_batches(exe, feeds)
    assert isinstance(second["output"], tvm.runtime.Tensor)
    assert np.array_equal(second["output"].numpy(), exe.run(feeds[1])["output"].numpy())
    assert np.array_equal(third["output"], exe.run(feeds[2])["output"])


@pytest.mark.parametrize("before", range(5))
def test_errors_come_after_all_results_before(exe: tvmconv.Executable, before: int) -> None:
    good = [random_feed(SHAPE, seed) for seed in range(before)]
    wrong = {"input": np.zeros((3, 3, 12, 12), "f")}
    results = streaming.stream_batches(exe, [*good, wrong, *good])
    for feed in good:
        assert np.array_equal(next(results)["output"], exe.run(feed)["output"])
    with pytest.raises(FeedError, match="got float32"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    assert DIARY[-1] == "out done"


def test_whoever_stops_early_leaves_nothing_running(exe: tvmconv.Executable) -> None:
    results = streaming.stream_batches(exe, (random_feed(SHAPE, seed) for seed in range(9)))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert DIARY[-3:] == ["in done", "compute done", "out done"]

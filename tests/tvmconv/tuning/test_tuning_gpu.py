"""Tuning on this machine's GPU, with its compiler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tvmconv
from schedules.conv.max_pool import MaxPool
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.registry import family
from tests.support import networks
from tests.support.workloads import PAIRS, WORKLOADS
from tests.tvmconv.tuning.test_measure import replaced
from tvmconv.runtime import gpu
from tvmconv.tuning.candidates import Candidate, sample, space
from tvmconv.tuning.kernels import Target
from tvmconv.tuning.measure import Workshop

pytestmark = pytest.mark.gpu
NAMES = (
    "not square", "stem", "1x1", "stride phase", "depthwise", "groups", "batch 5, packed", "pair",
)  # fmt: skip


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    arch = gpu.detect_arch()
    assert arch is not None
    with Workshop(Target("cuda", arch)) as shop:
        yield shop


@pytest.mark.parametrize("name", NAMES)
def test_candidates_of_every_family_are_right_and_timed(shop: Workshop, name: str) -> None:
    w = (WORKLOADS | PAIRS)[name]
    candidates = sample(space(w, shop.target.hardware), 8)
    measured = shop.measure(shop.compile(w, candidates))
    assert not measured.failures
    assert all(0.5 < one.us < 1e4 for one in measured.timed), "no launch takes less than 0.5 us"
    assert measured.best.us <= measured.timed[0].us


def test_a_pooled_kernel_is_compared_with_what_is_pooled(shop: Workshop) -> None:
    """Of two paddings that give tensors of one size, the kernel of the other is wrong."""
    pool = MaxPool((3, 3), (2, 2), (1, 1), (6, 6))
    stem = ConvWorkload(1, 14, 14, 3, 8, 3, 3, epilogue=Epilogue(True, pool=pool))
    other = replace(pool, padding=(0, 0), size=(6, 6))
    shifted = replace(stem, epilogue=replace(stem.epilogue, pool=other))
    config = FewChannelsConfig(2, 1)
    candidates = [Candidate(family("few_channels"), replace(config, blocks=n), 1.0) for n in (0, 2)]
    compiling = shop.compile(stem, candidates)
    measured = shop.measure(compiling)
    assert [one.candidate for one in measured.timed] == candidates
    assert not measured.failures
    wrong = shop.compile(shifted, candidates[1:])
    measured = shop.measure(replaced(compiling, 1, wrong.kernels[0].result().path))
    (why,) = measured.failures
    assert "result is wrong: relative l2 error" in why


def test_times_hold_in_another_run(shop: Workshop) -> None:
    w = WORKLOADS["1x1"]
    candidates = space(w, shop.target.hardware)[:2]
    runs = [shop.measure(shop.compile(w, candidates)) for _ in range(2)]
    for first, second in zip(runs[0].timed, runs[1].timed, strict=True):
        assert second.us == pytest.approx(first.us, rel=0.1)


def test_a_network_is_tuned(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle", reason="the tune extra is not installed")
    path = tmp_path / "r.jsonl"
    report = tvmconv.tune(networks.small(), batch=8, records=path, most=4)
    assert {layer.status for layer in report.layers} == {"measured"}
    assert not math.isnan(report.us)
    assert "NVIDIA" in report.device
    exe = tvmconv.build(networks.small(), batch=8, records=path)
    assert all(conv.tuned for conv in exe.report.convs)
    assert tvmconv.compare(networks.small(), exe).passed(5e-3)

"""A CPU as a machine: rates that follow from cores, clock and vector extensions."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.machine import processor as module
from schedules.machine.footprint import FP32, MMA, WGMMA
from schedules.machine.processor import Processor, processor


def test_the_peak_follows_from_cores_clock_and_lanes() -> None:
    one = Processor("some", 4, 2.5, 16)
    assert one.peak_tflops("float16") == pytest.approx(4 * 2.5e9 * 16 * 2 / 1e12)
    assert one.peak_tflops("float16") > one.tflops(MMA, "float16") > one.tflops(FP32, "float16") > 0
    assert one.memory_gbps == 80
    assert Processor("many", 128, 2.5, 16).memory_gbps == 400
    assert one.source == "4 cores of 2.5 GHz, assumed: 16 fp32 multiply-adds per clock, 80 GB/s"
    with pytest.raises(LookupError, match="does not emulate wgmma"):
        one.tflops(WGMMA, "float16")


@pytest.mark.parametrize(
    ("features", "lanes"),
    [(("avx", "avx2", "avx512f", "fma"), 32), (("avx", "avx2", "fma"), 16), (("avx",), 8), ((), 8)],
)
def test_lanes_follow_from_the_vector_extensions(features: tuple[str, ...], lanes: int) -> None:
    assert processor("some", features).lanes == lanes


def test_cores_and_clock_are_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fastest, info = tmp_path / "max", tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "MAX_KHZ", fastest)
    monkeypatch.setattr(module, "CPUINFO", info)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    assert processor("some", ()) == Processor("some", 3, module.CLOCK_GHZ, 8), "neither is there"
    info.write_text("processor\t: 0\ncpu MHz\t\t: 2596.1\n")
    assert processor("some", ()).clock_ghz == pytest.approx(2.5961)
    fastest.write_text("3700000\n")
    assert processor("some", ()).clock_ghz == pytest.approx(3.7)

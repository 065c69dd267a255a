"""A CPU as a machine: rates that follow from cores, clock and vector extensions."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.machine import processor as module
from schedules.machine.footprint import FP32, MMA, WGMMA
from schedules.machine.hardware import cpu
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


def test_vnni_multiplies_bytes_four_times_as_fast_as_fp32() -> None:
    plain, one = Processor("some", 2, 2.5, 32), Processor("some", 2, 2.5, 32, vnni=True)
    for x in ("int8", "uint8"):
        assert plain.peak_tflops(x) == plain.peak_tflops("float16")
        assert plain.tflops(MMA, x) == plain.tflops(MMA, "float16")
        assert one.peak_tflops(x) == 4 * plain.peak_tflops(x)
        assert one.peak_tflops(x) > one.tflops(MMA, x) > 2.5 * plain.tflops(MMA, x)
        # Depthwise and direct kernels do not use it.
        assert one.tflops(FP32, x) == plain.tflops(FP32, x)
    assert one.tflops(MMA, "float16") == plain.tflops(MMA, "float16")
    assert "32 fp32 multiply-adds per clock, with VNNI 128 of 8 bits, 40 GB/s" in one.source


@pytest.mark.parametrize(
    ("features", "vnni"), [(("avx512f", "avx512vnni"), True), (("avx2",), False)]
)
def test_a_cpu_and_what_is_scheduled_for_it_agree_on_vnni(
    features: tuple[str, ...], vnni: bool
) -> None:
    assert processor("some", features).vnni == cpu(features).vnni == vnni
    assert cpu(features).form == ("vnni" if vnni else "llvm")


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

"""Cycles: the measured ones exactly, the published peak, and what can and cannot happen."""

from __future__ import annotations

import numpy as np
import pytest

from intrinsics.volta.hmma import F16, F32, PROGRAM_F16, PROGRAM_F32, Form
from intrinsics.volta.timing import TIMING, completes, gemm_cycles, multiprocessor_cycles, timeline

each_form = pytest.mark.parametrize("form", [F32, F16], ids=lambda form: form.name)


def test_one_wmma_takes_the_measured_cycles() -> None:
    """As Raihan et al. have them beside their disassembled listings."""
    found = [completes(instruction) for instruction in PROGRAM_F32.instructions]
    assert found == [10, 12, 14, 18, 20, 22, 24, 28, 30, 32, 34, 38, 40, 42, 44, 54]
    found = [completes(instruction) for instruction in PROGRAM_F16.instructions]
    assert found == [12, 21, 25, 34, 38, 47, 51, 64]


@each_form
def test_one_warp_alone_is_one_wmma_after_the_other(form: Form) -> None:
    alone = timeline(form, 1, 1)
    assert (alone.completes[0, 0] == TIMING[form].completes()).all()
    three = timeline(form, 1, 3)
    period = int(three.issues[0, 1, 0, 0])
    assert period == {F32: 40, F16: 52}[form]
    assert (np.diff(three.issues[0], axis=0) == period).all()
    assert three.cycles == alone.cycles + 2 * period


@each_form
@pytest.mark.parametrize("warps", [1, 2, 3, 5])
def test_no_two_instructions_at_once_in_order_and_no_result_read_too_early(
    form: Form, warps: int
) -> None:
    timing, found = TIMING[form], timeline(form, warps, 4)
    at = np.sort(found.issues.ravel())
    assert (np.diff(at) >= timing.busy).all()
    own = found.issues.reshape(warps, -1)
    assert (np.diff(own, axis=1) >= np.tile(timing.gaps(), 4)[:-1]).all()
    # The same step one set on, of this WMMA or the next, reads what this one writes.
    assert (own[:, form.steps :] >= own[:, : -form.steps] + timing.latency).all()


@each_form
def test_two_warps_fill_a_sub_core_and_more_add_nothing(form: Form) -> None:
    """The published peak: 128 multiply-adds a cycle, 32 cycles a WMMA."""
    for warps in (2, 3, 4):
        wmmas = 50
        cycles = timeline(form, warps, wmmas).cycles
        assert warps * wmmas * 32 <= cycles <= warps * wmmas * 32 + 64


@each_form
def test_long_runs_need_not_be_played_through(form: Form) -> None:
    for warps in (*range(1, 9), 16):
        for wmmas in (0, 1, 2, 3, 7, 12):
            played = timeline(form, warps, wmmas).cycles
            assert multiprocessor_cycles(form, 4 * warps, wmmas) == played
            assert multiprocessor_cycles(form, 4 * warps - 3, wmmas) == played
    assert multiprocessor_cycles(form, 0, 7) == 0


def test_a_gemm() -> None:
    assert gemm_cycles(F32, 16, 16, 16) == 54
    assert gemm_cycles(F32, 1, 1, 1) == 54
    assert gemm_cycles(F32, 16, 16, 160) == 54 + 9 * 40
    # One tile for each of the 4 sub-cores, then one more for one of them.
    assert gemm_cycles(F32, 64, 16, 16, multiprocessors=1) == 54
    assert gemm_cycles(F32, 80, 16, 16, warps=4, multiprocessors=1) == 108
    large = gemm_cycles(F32, 8192, 8192, 8192)
    peak = 8192**3 / (80 * 512)
    assert peak < large < 1.002 * peak
    assert gemm_cycles(F32, 8192, 8192, 8192, warps=4) == pytest.approx(peak * 40 / 32, rel=2e-3)


def test_what_is_no_gemm() -> None:
    for bad in ({"m": 0}, {"k": -1}, {"warps": 0}, {"warps": 65}, {"multiprocessors": 0}):
        sizes = {"m": 16, "n": 16, "k": 16} | bad
        with pytest.raises(ValueError, match="are positive, warps at most 64"):
            gemm_cycles(F32, **sizes)
    with pytest.raises(ValueError, match="neither can be negative"):
        timeline(F32, -1, 2)

"""onnx's own backend test: every case passes, or is refused for the reason that is listed."""

from __future__ import annotations

import contextlib
import unittest
from collections import defaultdict
from typing import Any

import pytest
from onnx.backend.test import BackendTest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.runner import Runner

import tvmconv
from tests.support import cuda_text, onnx_suite
from tvmconv.errors import TvmconvError
from tvmconv.integrations.onnx_backend import TvmconvBackend
from tvmconv.integrations.onnx_backend_exclusions import EXCLUSIONS, exclusion
from tvmconv.onnx.model import opset

GROUPS = (*onnx_suite.OPERATORS, *onnx_suite.KINDS)
#: Over how many tests the cases of all other operators are spread.
PARTS = 32


def run(case: TestCase) -> None:
    prepared = TvmconvBackend.prepare(onnx_suite.model(case), "CPU")
    tolerance: dict[str, Any] = onnx_suite.tolerances(case)
    for fed, expected in onnx_suite.data_sets(case):
        Runner.assert_similar_outputs(expected, prepared.run(fed), **tolerance)


def first_that_passes(operator: str) -> TestCase:
    """The first case of an operator itself, not of those that ONNX defines it by."""
    return next(
        case
        for case in onnx_suite.cases()[operator]
        if not exclusion(case.name) and onnx_suite.model(case).graph.node[0].op_type == operator
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_every_operator_of_the_table_is_scheduled_for_cuda(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To CUDA's text: one case of each operator, those of one opset in one network."""
    texts = cuda_text.without_compiler(monkeypatch)
    networks = defaultdict(list)
    for operator in onnx_suite.OPERATORS:
        case = first_that_passes(operator)
        networks[opset(onnx_suite.model(case))].append(case)
    for cases in networks.values():
        tvmconv.build(onnx_suite.together(cases), target="cuda", arch=arch)
    assert len(texts) == len(networks)
    assert all("__global__" in text for text in texts)


#: The first case of each operator whose kernels have results without dimensions.
NUMBERS = (
    "test_gather_0",
    "test_gather_elements_0",
    "test_dynamicquantizelinear",
    "test_einsum_scalar",
)


@pytest.mark.parametrize("name", NUMBERS)
def test_what_gives_one_number_is_scheduled_for_cuda(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    tvmconv.build(onnx_suite.together(named(name)), target="cuda", arch="sm_80")
    assert "__global__" in texts[0]


#: Forms that TVM's importer gets wrong, and `tvmconv.onnx.operators` imports.
PUT_RIGHT = (
    "test_bitshift_left_int32_negative_shift",
    "test_bitshift_right_int8_shift_ge_width",
    "test_mod_float_edge_cases_fmod_0_float16",
    "test_mod_float_edge_cases_fmod_0_float64",
    "test_spacetodepth_crd_mode_example",
)


def named(*names: str) -> list[TestCase]:
    return [one for group in onnx_suite.cases().values() for one in group if one.name in names]


@pytest.mark.parametrize("name", PUT_RIGHT)
def test_forms_that_tvm_gets_wrong(name: str) -> None:
    (case,) = named(name)
    run(case)


def test_those_forms_are_scheduled_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = cuda_text.without_compiler(monkeypatch)
    networks = defaultdict(list)
    for case in named(*PUT_RIGHT):
        networks[opset(onnx_suite.model(case))].append(case)
    for cases in networks.values():
        tvmconv.build(onnx_suite.together(cases), target="cuda", arch="sm_90a")
    assert len(texts) == len(networks)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_cases_that_pass(group: str) -> None:
    """Through onnx's own runner."""
    cases = [case for case in onnx_suite.cases()[group] if not exclusion(case.name)]
    tolerances = {case.name: onnx_suite.tolerances(case) for case in cases}
    runner = BackendTest(TvmconvBackend, __name__, tolerances)
    runner.include(f"^({'|'.join(tolerances)})_cpu$")
    result = unittest.TestResult()
    runner.test_suite.run(result)
    assert not [(str(case), text) for case, text in (*result.failures, *result.errors)]
    assert result.testsRun - len(result.skipped) == len(cases) > 0


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_cases_that_are_refused(group: str) -> None:
    for case in onnx_suite.cases()[group]:
        reason = exclusion(case.name)
        if reason:
            with pytest.raises(TvmconvError) as error:
                run(case)
            assert reason in str(error.value), case.name
            assert error.value.hint, case.name


@pytest.mark.slow
def test_every_exclusion_excludes_something() -> None:
    names = [case.name for group in GROUPS for case in onnx_suite.cases()[group]]
    assert {exclusion(name) for name in names} == {None, *EXCLUSIONS}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_all_other_operators_are_right_or_refused(part: int) -> None:
    groups = onnx_suite.cases()
    cases = [case for group in sorted({*groups} - {*GROUPS}) for case in groups[group]]
    for case in cases[part::PARTS]:
        try:
            # Refused in words. In 11 of 32 parts some are TVM's own, which no refusal names yet.
            with contextlib.suppress(TvmconvError):
                run(case)
        except Exception as error:
            raise AssertionError(case.name) from error

"""Kernels checked before they are timed, and none that stops the others."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.target.codegen import llvm_get_system_cpu

from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.machine.hardware import CPU
from tests.support.thinned import thinned
from tests.support.workloads import RELU, WORKLOADS
from tvmconv.errors import TuningError
from tvmconv.runtime import cuda as cuda_runtime
from tvmconv.tuning import measure
from tvmconv.tuning.candidates import space
from tvmconv.tuning.kernels import Kernel, Target
from tvmconv.tuning.measure import Compiling, Workshop

pytest.importorskip("cloudpickle", reason="the tune extra is not installed")

TARGET = Target("llvm", llvm_get_system_cpu())
W = ConvWorkload(1, 9, 8, 24, 20, 3, 3, padding=(1, 1, 1, 1), epilogue=Epilogue(True, True))


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with Workshop(TARGET, jobs=1, timeout_s=60) as shop:
        yield shop


@pytest.mark.parametrize(
    "name", thinned(["not square", "stride phase", "depthwise", "batch 5, packed"], 2)
)
def test_candidates_are_right_and_timed(shop: Workshop, name: str) -> None:
    w = WORKLOADS[name]
    told: list[tuple[int, int]] = []
    candidates = space(w, CPU)[:2]
    measured = shop.measure(
        shop.compile(w, candidates), tell=lambda done, total: told.append((done, total))
    )
    assert [one.candidate for one in measured.timed] == candidates
    assert not measured.failures
    assert all(0 < one.us < 1e6 for one in measured.timed)
    assert measured.best in measured.timed
    assert measured.best.samples == measured.rounds
    assert told == [(done, len(candidates)) for done in range(1, len(candidates) + 1)]


def replaced(compiling: Compiling, at: int, path: str) -> Compiling:
    """The same, another kernel in the place of a candidate's."""
    future: Future[Kernel] = Future()
    future.set_result(Kernel(path, made=True))
    kernels = list(compiling.kernels)
    kernels[at] = future
    return replace(compiling, kernels=tuple(kernels))


def exported(path: Path, body: Any) -> str:
    """A kernel of W's signature that evaluates one number and writes that everywhere."""
    shapes = [W.in_shape, (3, 3, 24, 20), (20,), W.residual_shape]
    dtypes = ["float16", "float16", "float32", "float16"]
    pairs = zip(shapes, dtypes, strict=True)
    inputs = [te.placeholder(*pair, f"a{i}") for i, pair in enumerate(pairs)]
    x = inputs[0]
    y = te.compute(W.buffer_shape, lambda *at: body(x[0, 0, 0, 0]).astype("float16"), "y")
    tvm.compile(te.create_prim_func([*inputs, y]), target="llvm").export_library(str(path))
    return str(path)


def test_a_wrong_kernel_is_not_timed(shop: Workshop) -> None:
    """One that leaves the activation out."""
    activated = replace(W, epilogue=replace(W.epilogue, activation=RELU))
    candidates = space(activated, CPU)[:2]
    wrong = shop.compile(W, candidates[1:])
    compiling = replaced(shop.compile(activated, candidates), 1, wrong.kernels[0].result().path)
    measured = shop.measure(compiling)
    assert measured.best.candidate == candidates[0]
    assert math.isinf(measured.timed[1].us)
    (why,) = measured.failures
    assert "result is wrong: relative l2 error" in why
    with pytest.raises(TuningError, match="model's choice") as told:
        shop.measure(replaced(compiling, 0, wrong.kernels[0].result().path))
    assert "result is wrong" in str(told.value)


def test_an_unwritten_element_is_found(shop: Workshop, tmp_path: Path) -> None:
    """What a kernel does not write keeps a value that no result has; here it is one of none."""
    path = exported(tmp_path / "nan.so", lambda x: x * float("nan"))
    candidates = [one for one in space(W, CPU) if one.family.name == "direct"][:2]
    measured = shop.measure(replaced(shop.compile(W, candidates), 1, path))
    assert "result is wrong: relative l2 error nan" in measured.timed[1].why


def test_a_kernel_that_ends_the_process_ends_nothing_else(shop: Workshop, tmp_path: Path) -> None:
    path = exported(
        tmp_path / "abort.so", lambda x: tirx.call_extern("int32", "abort").astype("float32") + x
    )
    candidates = [one for one in space(W, CPU) if one.family.name == "direct"][:3]
    measured = shop.measure(replaced(shop.compile(W, candidates), 1, path))
    assert "it does not run" in measured.timed[1].why
    assert math.isfinite(measured.timed[0].us)
    assert math.isfinite(measured.timed[2].us)


@pytest.mark.slow
def test_a_kernel_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    path = exported(
        tmp_path / "sleep.so",
        lambda x: tirx.call_extern("int32", "sleep", 1000).astype("float32") + x,
    )
    candidates = [one for one in space(W, CPU) if one.family.name == "direct"][:2]
    with Workshop(TARGET, jobs=1, timeout_s=6) as shop:
        began = perf_counter()
        measured = shop.measure(replaced(shop.compile(W, candidates), 1, path))
    assert measured.timed[1].why == "it does not run: it took too long"
    assert perf_counter() - began < 60


def test_one_that_does_not_compile_is_left_out(shop: Workshop) -> None:
    first = space(W, CPU)[0]
    broken = replace(first, config=replace(first.config, fragments_m=0))
    measured = shop.measure(shop.compile(W, [first, broken]))
    assert "it does not compile: ConfigError" in measured.timed[1].why
    with pytest.raises(TuningError, match="model's choice"):
        shop.measure(shop.compile(W, [broken, first]))


def test_equal_kernels_are_compiled_once(shop: Workshop) -> None:
    """On a CPU the pipeline's stages change nothing."""
    first = next(one for one in space(W, CPU) if one.family.name == "wmma_nhwc")
    same = replace(first, config=replace(first.config, stages=first.config.stages + 1))
    compiling = shop.compile(W, [first, same])
    measured = shop.measure(compiling)
    assert measured.timed[0].us == measured.timed[1].us
    assert len(list((compiling.folder / "candidates").glob("*.so"))) == 1


def test_without_time_the_first_alone_are_measured(shop: Workshop) -> None:
    measured = shop.measure(shop.compile(W, space(W, CPU)[:4]), until=perf_counter())
    assert [math.isinf(one.us) for one in measured.timed] == [False, False, True, True]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measure.importlib.util, "find_spec", lambda name: None if name == "psutil" else object()
    )
    with pytest.raises(TuningError, match="tuning needs psutil") as told:
        Workshop(TARGET)
    assert "tvmconv[tune]" in str(told.value)


def test_what_is_timed_keeps_its_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph has addresses only: it would go on to read memory that was freed."""

    def capture(device: object, enqueue: Callable[[], object]) -> tuple[object, object]:
        result = enqueue()
        return SimpleNamespace(kept=result), result

    monkeypatch.setattr(cuda_runtime, "capture", capture)
    monkeypatch.setattr(cuda_runtime, "current_stream", lambda device: None)
    weight = np.zeros(3)
    gone = weakref.ref(weight)
    sample = cuda_runtime.launch_sampler(None, lambda *arguments: None, [weight], 2)
    del weight
    gc.collect()
    assert gone() is not None
    del sample
    gc.collect()
    assert gone() is None

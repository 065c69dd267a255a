"""Random networks against onnxruntime. One that fails is found again by its seed."""

from __future__ import annotations

import numpy as np
import pytest

import tvmconv
from tests.support.random_networks import random_network

#: Relative l2 error of an output: a dozen layers in fp16.
BOUND = 5e-3
#: Networks of the default suite, and of a slow test.
FEW, MANY = 5, 250


def check(seed: int) -> None:
    model = random_network(seed)
    exe = tvmconv.build(model, target="llvm")
    shape = exe.inputs[0].shape
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    report = tvmconv.compare(model, exe, {"input": x})
    assert report.passed(BOUND), f"seed {seed}: {report}"


@pytest.mark.parametrize("seed", range(FEW))
def test_a_random_network(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1000 + 8 * MANY, MANY))
def test_many_random_networks(first: int) -> None:
    for seed in range(first, first + MANY):
        check(seed)

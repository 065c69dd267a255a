"""The machine code of kernels that multiply 8-bit integers; needs no GPU."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tvm

from schedules import registry
from schedules.conv.workload import ConvWorkload, Epilogue
from schedules.family import Match, Reject
from tests.support import kernels, sass
from tests.support.workloads import INT8_WORKLOADS, WORKLOADS, quantised
from tvmconv.compiler import toolchain

pytestmark = [
    pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH"),
]

SAME = (1, 1, 1, 1)
RESNET = ConvWorkload(8, 14, 14, 256, 256, 3, 3, padding=SAME, epilogue=Epilogue(True, True))
MOBILENET = ConvWorkload(128, 56, 56, 144, 144, 3, 3, (2, 2), SAME, groups=144)
SCALED = ("scale", "residual_scale", "result_zero")
#: By family: forms of results, a gather of 8 bytes, one by element; then whole layers.
TRIED = {
    "wmma_nhwc": {
        "sums": INT8_WORKLOADS["not square, sums"],
        "groups": INT8_WORKLOADS["groups, sums"],
        "fp16 residual": INT8_WORKLOADS["fp16 residual"],
        "fp16 to int8": INT8_WORKLOADS["fp16 to int8"],
        "stem": quantised(WORKLOADS["stem"], "int8", "float16", *SCALED),
        "resnet": quantised(RESNET, "int8", "int8", *SCALED),
    },
    "wmma_packed": {"packed": quantised(WORKLOADS["batch 5, packed"], "int8", "int8", *SCALED)},
    "depthwise": {
        "depthwise": INT8_WORKLOADS["depthwise, int8"],
        "mobilenet": quantised(MOBILENET, "int8", "int8", *SCALED),
        "mobilenet, uint8": quantised(MOBILENET, "uint8", "uint8", *SCALED),
    },
    "direct": {
        "definition": INT8_WORKLOADS["1x1, uint8"],
        "to fp16": INT8_WORKLOADS["not square, fp16 out"],
    },
}


def symbol(family: str, name: str) -> str:
    return re.sub(r"\W+", "_", f"{family} {name}")


@pytest.mark.parametrize(
    "arch", ["sm_80", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sm_75", "sm_90a"))]
)
def test_integers_are_multiplied_as_such_and_move_in_vectors(arch: str, tmp_path: Path) -> None:
    hardware = toolchain.cuda_arch(arch)
    functions: dict[str, Any] = {}
    configs: dict[tuple[str, str], Any] = {}
    for name, workloads in TRIED.items():
        family = registry.family(name)
        for key, w in workloads.items():
            match = family.match(w, hardware)
            assert isinstance(match, Match), match
            configs[name, key] = match.config
            function = family.schedule(w, match.config, hardware)
            functions[symbol(name, key)] = function.with_attr("global_symbol", symbol(name, key))
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), hardware).export_library(str(library))
    listing = sass.kernels(library)
    code = {at: listing[f"{symbol(*at)}_kernel"] for at in configs}
    for (name, key), text in code.items():
        halves = key == "fp16 to int8"
        assert ("IMMA" in text) == (name.startswith("wmma") and not halves), key
        assert ("HMMA" in text) == halves, key
    resnet = code["wmma_nhwc", "resnet"]
    assert not re.findall(r"\b(?:STL|LDL)\b.*", resnet)
    # Predicated copies, pixels of the padding too, all of 16 bytes.
    copies = re.findall(r"\bLDGSTS\S*", resnet)
    assert (len(copies) > 1) == (arch != "sm_75")
    assert all(".128" in copy for copy in copies)
    assert ".128" in re.findall(r"\bSTG\S*", resnet)[0]
    for key in ("mobilenet", "mobilenet, uint8"):
        vector = configs["depthwise", key].vector
        width = {16: ".128", 8: ".64"}[vector]
        moves = re.findall(r"\b(?:LDG|STG)\S*", code["depthwise", key])
        # The scales are fp32: 4 channels take 16 bytes.
        assert all(width in move or ".128" in move for move in moves), moves


@pytest.mark.parametrize("name", ["wmma_nhwc", "wmma_packed"])
@pytest.mark.parametrize(
    ("arch", "form", "reason"),
    [
        ("sm_80", "uint8", "WMMA multiplies equal types, not u8 x s8 .*"),
        ("sm_70", "zero point", "sm_70 has no WMMA that multiplies s8 .*"),
    ],
)
def test_what_wmma_lacks_is_declined(name: str, arch: str, form: str, reason: str) -> None:
    layout = "batch 5, packed" if name == "wmma_packed" else "not square"
    x = "uint8" if form == "uint8" else "int8"
    w = quantised(WORKLOADS[layout], x, x, "scale")
    answer = registry.family(name).match(w, toolchain.cuda_arch(arch))
    assert isinstance(answer, Reject)
    assert re.fullmatch(reason, answer.reason), answer.reason

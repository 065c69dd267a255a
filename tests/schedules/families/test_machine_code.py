"""What a CUDA compiler makes of the default configurations; needs a compiler but no GPU."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tvm

from schedules.choose import Choice, choose
from schedules.conv.workload import PACKED, Activation, ConvWorkload, Epilogue
from schedules.families.few_channels.config import FewChannelsConfig
from schedules.families.mma_sync.config import MmaSyncConfig
from schedules.families.mma_sync.plan import Plan
from schedules.families.wmma.config import WmmaConfig, shared_bytes
from schedules.family import Match
from schedules.registry import FAMILIES, family
from tests.support import kernels, sass
from tests.support.workloads import INT8_WORKLOADS, PAIRS, WORKLOADS
from tvmconv.compiler import cubins, toolchain

pytestmark = [
    pytest.mark.skipif(not sass.available(), reason="no cuobjdump and nvdisasm"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH"),
]

SAME = (1, 1, 1, 1)
FUSED = Epilogue(bias=True, residual=True, activation=Activation("relu"))

#: Of the small ones, those whose code differs: vectors of 8, 4, 2 and 1, layouts, no tensor core.
#: Two of ResNet's, of which the second takes the largest tiles there are.
TRIED = {
    **{
        name: WORKLOADS[name]
        for name in (
            "stem",
            "20 to 10 channels",
            "to one channel",
            "fp32 out",
            "batch 5, packed",
            "another packing",
            "groups, packed",
            "depthwise",
            "depthwise 5x5 with stride",
            "depthwise, large filter",
        )
    },
    "resnet": ConvWorkload(1, 14, 14, 256, 256, 3, 3, padding=SAME, epilogue=FUSED),
    "mobilenet": ConvWorkload(
        1, 28, 28, 192, 192, 3, 3, padding=SAME, groups=192,
        epilogue=Epilogue(True, activation=Activation("clip", (0.0, 6.0))),
    ),
    "mobilenet, batch 128": ConvWorkload(
        128, 56, 56, 144, 144, 3, 3, (2, 2), SAME, groups=144, epilogue=FUSED
    ),
    "resnet, packed": ConvWorkload(
        256, 14, 14, 256, 512, 3, 3, padding=SAME, in_layout=PACKED, out_layout=PACKED,
        epilogue=Epilogue(True, True, PACKED, Activation("relu")),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Built:
    """Every workload of `TRIED` for one architecture, and the machine code of each."""

    arch: str
    choices: dict[str, Choice]
    code: dict[str, str]
    #: LLVM's text of the functions that launch the kernels.
    host: str


def symbol(name: str) -> str:
    return "conv_" + re.sub(r"\W+", "_", name)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sm_75", marks=pytest.mark.slow),
        "sm_80",
        pytest.param("sm_90", marks=pytest.mark.slow),
    ],
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    hardware = toolchain.cuda_arch(request.param)
    choices = {name: choose(w, hardware) for name, w in TRIED.items()}
    functions: dict[str, Any] = {}
    for name, choice in choices.items():
        scheduled = choice.family.schedule(choice.workload, choice.config, hardware)
        functions[symbol(name)] = scheduled.with_attr("global_symbol", symbol(name))
    # One module: nvcc reads the WMMA headers once, which is most of its time.
    executable = kernels.compiled(tvm.IRModule(functions), hardware)
    library = tmp_path_factory.mktemp(request.param) / "kernels.so"
    executable.export_library(str(library))
    cubins.require_cubin(library, request.param)
    listing = sass.kernels(library)
    code = {name: listing[f"{symbol(name)}_kernel"] for name in TRIED}
    return Built(request.param, choices, code, executable.mod.inspect_source())


@pytest.mark.parametrize("name", TRIED)
def test_tensor_cores_are_used_where_they_are_claimed(built: Built, name: str) -> None:
    tensorized = built.choices[name].family.tensorized
    assert tensorized == (TRIED[name].groups == 1)
    assert ("HMMA" in built.code[name]) == tensorized


@pytest.mark.parametrize("name", TRIED)
def test_nothing_is_spilled_to_local_memory(built: Built, name: str) -> None:
    """STL and LDL: what does not fit in registers, or is an array indexed at run time."""
    assert not re.findall(r"\b(?:STL|LDL)\b.*", built.code[name])


@pytest.mark.parametrize("name", TRIED)
def test_copies_are_asynchronous_where_the_config_says_so(built: Built, name: str) -> None:
    config = built.choices[name].config
    asynchronous = isinstance(config, MmaSyncConfig | FewChannelsConfig) or (
        isinstance(config, WmmaConfig) and config.asynchronous
    )
    assert ("LDGSTS" in built.code[name]) == asynchronous
    if built.arch == "sm_75":
        assert not asynchronous
    elif name.startswith("resnet"):
        # Both operands, and 16 bytes at a time.
        assert asynchronous
        copies = re.findall(r"\bLDGSTS\S*", built.code[name])
        assert len(copies) > 1
        assert all(".128" in copy for copy in copies)


@pytest.mark.parametrize("name", ["resnet", "resnet, packed", "batch 5, packed"])
def test_output_is_stored_in_16_bytes(built: Built, name: str) -> None:
    stores = re.findall(r"\bSTG\S*", built.code[name])
    assert stores
    assert all(".128" in store for store in stores)


def bits(move: str) -> int:
    """Moved by a thread's load or store."""
    found = re.search(r"\.[US]?(8|16|64|128)\b", move)
    return int(found[1]) if found else 32


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet",
        "mobilenet, batch 128",
        "depthwise",
        "depthwise, large filter",
        "depthwise 5x5 with stride",
    ],
)
def test_depthwise_moves_whole_vectors(built: Built, name: str) -> None:
    """Padding included: a vector is loaded or not, under a predicate and without a branch."""
    choice, code = built.choices[name], built.code[name]
    config, w = choice.config, choice.workload
    assert choice.family.name == "depthwise"
    moves = re.findall(r"\b(?:LDG|STG)\S*", code)
    # The bias is fp32: a vector of 4 channels takes 16 bytes, too.
    bias = max(1, config.vector // 4) * w.epilogue.bias
    narrower = [move for move in moves if bits(move) < 16 * config.vector]
    assert len(narrower) <= bias, narrower
    if w.s <= 7:
        tile = config.rows * config.columns
        columns = (config.columns - 1) * w.stride[1] + w.s
        rows = ((config.rows - 1) * w.stride[0] + 1) * w.r
        most = rows * columns + w.r * w.s + tile * w.epilogue.residual + bias
        assert len(re.findall(r"\bLDG", code)) <= most


@pytest.mark.parametrize("name", TRIED)
def test_shared_memory_is_what_the_config_was_checked_for(built: Built, name: str) -> None:
    """The launch asks for exactly what `shared_bytes` says, so that `check` means something."""
    choice = built.choices[name]
    if isinstance(choice.config, WmmaConfig | MmaSyncConfig):
        needed = (
            shared_bytes(choice.workload, choice.config)
            if isinstance(choice.config, WmmaConfig)
            else Plan(choice.workload, choice.config).memory.bytes
        )
        # The launch's numbers as LLVM stores them: blocks, threads, and last the shared memory.
        launch = rf"^define [^\n]*@{symbol(name)}_compute_\(.*?^}}"
        body = re.search(launch, built.host, re.MULTILINE | re.DOTALL)
        assert body is not None
        numbers = [int(number) for number in re.findall(r"store i64 (\d+),", body[0])]
        assert numbers[-1] == needed, f"{choice.config}: {numbers}"


#: What each family is compiled for: of these the first that it takes.
SMALL = WORKLOADS | PAIRS | INT8_WORKLOADS


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_every_family_compiles(arch: str, tmp_path: Path) -> None:
    """In one module; those that claim tensor cores use them."""
    hardware = toolchain.cuda_arch(arch)
    functions: dict[str, Any] = {}
    for one in FAMILIES:
        for w in SMALL.values():
            match = one.match(w, hardware)
            if isinstance(match, Match):
                function = one.schedule(w, match.config, hardware)
                functions[symbol(one.name)] = function.with_attr("global_symbol", symbol(one.name))
                break
    declined = {one.name for one in FAMILIES if symbol(one.name) not in functions}
    assert declined == ({"wgmma"} if arch == "sm_80" else set())
    library = tmp_path / "kernels.so"
    kernels.compiled(tvm.IRModule(functions), hardware).export_library(str(library))
    cubins.require_cubin(library, arch)
    listing = sass.kernels(library)
    for one in FAMILIES:
        if one.name not in declined:
            code = listing[f"{symbol(one.name)}_kernel"]
            assert bool(re.search(r"\bH(G)?MMA\b", code)) == one.tensorized, one.name


def test_1x1_convolution_gathers_nothing() -> None:
    """It is a plain matrix product: where a row of x lies takes no division, in CUDA's text."""
    w = ConvWorkload(8, 28, 28, 256, 128, 1, 1)
    hardware = toolchain.cuda_arch("sm_90")
    wmma = family("wmma_nhwc")
    match = wmma.match(w, hardware)
    assert isinstance(match, Match)
    kernel = kernels.compiled(wmma.schedule(w, match.config, hardware), hardware)
    text = kernel.mod.imports[0].inspect_source()
    copies = [line for line in text.splitlines() if "cp_async" in line and ", x_ptr, " in line]
    assert copies
    for copy in copies:
        assert not set(copy.partition(", x_ptr, ")[2]) & {"/", "%"}, copy


# ---------------------------------------------------------------- mma.sync


def loop(code: str) -> list[str]:
    """The instructions of the loop that multiplies most: back from a branch to where it goes."""
    listed = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]*);", code)
    lines = [(int(at, 16), line.strip()) for at, line in listed]
    loops = []
    for at, line in lines:
        branch = re.search(r"\bBRA\S* .*0x([0-9a-f]+)", line)
        if branch and int(branch[1], 16) < at:
            loops.append([text for place, text in lines if int(branch[1], 16) <= place <= at])
    return max(loops, key=lambda body: sum("HMMA" in text for text in body))


@pytest.mark.slow
def test_loop_of_mma_sync_is_mostly_multiplications(tmp_path: Path) -> None:
    """For every fragment of 16: 4 x 8 multiplications and as few loads as there can be, which is
    four times fewer; what is not one of them moves on."""
    w = ConvWorkload(256, 14, 14, 256, 512, 3, 3, padding=SAME, epilogue=Epilogue(True))
    hardware, config = toolchain.cuda_arch("sm_90a"), MmaSyncConfig(2, 4, 4, 4, 4, 4)
    built = kernels.compiled(family("mma_sync").schedule(w, config, hardware), hardware)
    built.export_library(str(tmp_path / "kernel.so"))
    (code,) = sass.kernels(tmp_path / "kernel.so").values()
    body = loop(code)
    count = {name: sum(name in line for line in body) for name in ("HMMA", "LDSM", "LDGSTS")}
    assert count == {"HMMA": 4 * 32, "LDSM": 4 * 8, "LDGSTS": 12}
    assert len(body) < 2.5 * count["HMMA"]
    assert not re.findall(r"\b(?:STL|LDL)\b.*", code)
    stores = re.findall(r"\bSTG\S*", code)
    assert stores
    assert all(".128" in store for store in stores)

"""Translates a kernel's CUDA text to C++ that calls the emulator's instructions.

TVM writes every PTX instruction as a small function around one inline assembly statement:

    void tvm_builtin_ptx_max_NaN_f16x2(uint32_t& __d, uint32_t __a, uint32_t __b) {
      asm volatile("max.NaN.f16x2 %0, %1, %2;" : "=r"(__d) : "r"(__a), "r"(__b));
    }

Here the assembly becomes a call of the function in `kernel.h` that does the same:

      emulator::max_of_pairs<half>(__d, __a, __b);

The rest is C++ already. Raises `EmulatorError` for an instruction that is not in
`INSTRUCTIONS`.
"""

from __future__ import annotations

import re

from schedules.errors import EmulatorError
from schedules.threads.emulator.lowered import Lowered

#: By PTX's names of element types: their C++ types in `elements.h`.
TYPES = {
    "f16": "half", "bf16": "nv_bfloat16", "f32": "float",
    "s8": "int8_t", "u8": "uint8_t", "s32": "int32_t",
}  # fmt: skip
_ELEMENT = "(f16|bf16)"

#: By the PTX name of an instruction, as a regular expression: the C++ call. `{...}` are the groups
#: that the expression captures, element types as C++ types. The operands follow.
INSTRUCTIONS = {
    # threads of a warp, a block, a cluster
    r"bar\.sync": "bar_sync(",
    r"barrier\.cluster\.arrive\.aligned": "cluster_arrive(",
    r"barrier\.cluster\.wait\.aligned": "cluster_wait(",
    r"shfl\.sync\.idx\.b32": "shfl_idx(",
    # registers and shared memory
    r"mapa\.shared::cluster\.u32": "mapa(",
    r"ld\.shared(?:::cluster)?(?:\.v[24])?\.(?:f32|b32|u32)": "ld_shared(",
    r"st\.shared(?:\.v[24])?\.(?:b32|u32)": "st_shared(",
    r"ldmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16": "ldmatrix(false, ",
    r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans\.shared\.b16": "ldmatrix(true, ",
    r"stmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16": "stmatrix(",
    r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16": "movmatrix(",
    r"max\.NaN\.(f16)x2": "max_of_pairs<{0}>(",
    rf"mul\.rn\.{_ELEMENT}x2": "product_of_pairs<{0}>(",
    r"dp4a\.s32\.s32": "dp4a<int8_t>(",
    r"dp4a\.u32\.s32": "dp4a<uint8_t>(",
    r"fma\.rn\.sat\.f32": "fma_sat(",
    r"mul\.rn\.f32": "mul_rn(",
    r"cvt\.rni\.s32\.f32": "cvt_rni(",
    r"cvt\.pack\.sat\.([su]8)\.s32\.b32": "cvt_pack<{0}>(",
    # asynchronous copies
    r"cp\.async\.c[ag]\.shared\.global(?:\.L2::\d+B)?": "cp_async(",
    r"cp\.async\.commit_group": "cp_async_commit(",
    r"cp\.async\.wait_group": "cp_async_wait(",
    # products
    rf"mma\.sync\.aligned\.m16n8k16\.row\.col\.(f32)\.{_ELEMENT}\.\2\.\1": (
        "mma_sync<{1}, {1}, {0}>("
    ),
    r"mma\.sync\.aligned\.m16n8k32\.row\.col\.(s32)\.([su]8)\.(s8)\.\1": (
        "mma_sync<{1}, {2}, {0}>("
    ),
    rf"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.{_ELEMENT}\.\2": (
        "wgmma<{1}, {1}, float>({0}, "
    ),
    r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k32\.(s32)\.([su]8)\.(s8)": (
        "wgmma<{2}, {3}, {1}>({0}, "
    ),
    r"wgmma\.fence\.sync\.aligned": "wgmma_fence(",
    r"wgmma\.commit_group\.sync\.aligned": "wgmma_commit(",
    r"wgmma\.wait_group\.sync\.aligned": "wgmma_wait(",
    r"setmaxnreg\.inc\.sync\.aligned\.u32": "setmaxnreg(true, ",
    r"setmaxnreg\.dec\.sync\.aligned\.u32": "setmaxnreg(false, ",
    # mbarriers and the copy engine
    r"mbarrier\.init\.shared\.b64": "mbarrier_init(",
    r"mbarrier\.arrive\.shared\.b64": "mbarrier_arrive(",
    r"mbarrier\.arrive\.expect_tx\.shared\.b64": "mbarrier_arrive_expect_tx(",
    r"cp\.async\.bulk\.shared::cluster\.global\.mbarrier::complete_tx::bytes": "bulk_copy(",
    r"cp\.async\.bulk\.tensor\.2d\.shared::cluster\.global\.tile\.mbarrier::complete_tx::bytes": (
        "load_tile("
    ),
    r"cp\.async\.bulk\.tensor\.4d\.shared::cluster\.global\.im2col\.mbarrier::complete_tx::bytes": (
        "load_im2col("
    ),
    r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta\.tile\.bulk_group": "store_tile(",
    r"cp\.async\.bulk\.commit_group": "bulk_commit(",
    r"cp\.async\.bulk\.wait_group(?:\.read)?": "bulk_wait(",
    r"fence\.proxy\.async\.shared::cta": "fence_proxy(",
}
#: Whole statements of more than one instruction.
STATEMENTS = {
    r"mov\.u32 (%\d+), %%cluster_ctarank;": "{0} = emulator::cluster_rank();",
    r"\{ \.reg \.pred (\w+); (\w+): mbarrier\.try_wait\.parity\.acquire\.cta\.shared::cta\.b64 \1, "
    r"\[(%\d+)\], (%\d+), %\d+; @\1 bra\.uni (\w+); bra\.uni \2; \5: \}": (
        "emulator::mbarrier_wait({2}, {3});"
    ),
    # Empty: only keeps the compiler from moving code.
    r"": "",
}

_STRING = r'"(?:[^"\\]|\\.)*"'
_ASM = re.compile(rf"\basm(?: volatile)?\(\s*((?:{_STRING}\s*)+)(.*?)\);\n", re.DOTALL)
_OPERAND = re.compile(r'"[=+]?(\w)"\((\w+)\)')
_PREDICATED = re.compile(r"\{ \.reg \.pred (\w+); setp\.ne\.b32 \1, (%\d+), 0; (.*;) \}")


def translated(kernel: Lowered) -> str:
    """Returns C++ with a function ``kernel`` that takes pointers to the parameters.

    Raises `EmulatorError` for an unknown instruction.
    """
    text = kernel.text
    helpers = re.findall(r"^__forceinline__ __device__ .*?^}", text, re.MULTILINE | re.DOTALL)
    # The declaration comes first, then the definition.
    start = text.rindex('extern "C" __global__')
    found = re.match(r'extern "C" __global__ void .*?(\w+)\(([^()]*)\) \{', text[start:])
    if found is None:
        raise EmulatorError("no kernel was found in the CUDA text")
    name, parameters = found[1], found[2].split(", ")
    body = re.sub(
        r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];",
        r"\1* \2 = (\1*)emulator::shared_memory();",
        text[start + found.end() :],
    )
    declared = ", ".join(_declaration(parameter) for parameter in parameters)
    passed = ", ".join(_passed(parameter, i) for i, parameter in enumerate(parameters))
    functions = "\n".join(_ASM.sub(_instruction, helper) for helper in helpers)
    functions = functions.replace("__forceinline__ __device__", "static inline")
    return f"""#include "kernel.h"
{functions}
static void {name}({declared}) {{{body}
extern "C" void kernel(void** given) {{ {name}({passed}); }}
"""


def _declaration(parameter: str) -> str:
    *kind, name = parameter.replace("__restrict__", "").replace("__grid_constant__", "").split()
    reference = "&" if "CUtensorMap" in kind else ""
    return f"{' '.join(kind)}{reference} {name}"


def _passed(parameter: str, number: int) -> str:
    if "CUtensorMap" in parameter:
        return f"*(CUtensorMap*)given[{number}]"
    return f"({parameter.split('*')[0]}*)given[{number}]"


def _instruction(statement: re.Match[str]) -> str:
    """Returns the C++ statement for an assembly statement."""
    text = "".join(re.findall(_STRING, statement[1])).replace('"', "").replace("\\n", " ")
    text = " ".join(text.split())
    operands = [_typed(kind, value) for kind, value in _OPERAND.findall(statement[2])]
    for pattern, replacement in STATEMENTS.items():
        if found := re.fullmatch(pattern, text):
            return _filled(replacement.format(*found.groups()), operands) + "\n"
    if found := _PREDICATED.fullmatch(text):
        predicate, condition, text = found.groups()
        text = re.sub(rf"\b{predicate}\b", f"bool({condition})", text)
    name, _, arguments = text.rstrip(";").partition(" ")
    call = _call(name)
    values = _arguments(name, arguments)
    return f"emulator::{call}{_filled(', '.join(values), operands)});\n"


def _typed(kind: str, value: str) -> str:
    return f"(const void*)({value})" if kind == "l" and "desc" not in value else value


def _filled(code: str, operands: list[str]) -> str:
    return re.sub(r"%(\d+)", lambda number: operands[int(number[1])], code)


def _call(name: str) -> str:
    """Returns the C++ call of an instruction, without its operands."""
    for pattern, call in INSTRUCTIONS.items():
        if found := re.fullmatch(pattern, name):
            return call.format(*(TYPES.get(group, group) for group in found.groups()))
    raise EmulatorError(
        f"the emulator does not know the instruction {name}",
        hint="add it to INSTRUCTIONS in schedules/threads/emulator/translate.py",
    )


def _arguments(name: str, text: str) -> list[str]:
    """Returns an instruction's operands as C++ expressions, vectors as their elements."""
    # An address with an offset, then the brackets of addresses and vectors.
    text = re.sub(r"\[(%\d+)\+(\d+)\]", r"emulator::at(\1; \2)", text)
    values = [value.strip() for value in re.sub(r"[\[\]{}]", "", text).split(",")]
    values = [value.replace(";", ",") for value in values if value not in ("", "_")]
    if name.startswith("ld.shared"):
        return [values[-1], *values[:-1]]
    if name.startswith("wgmma.mma_async"):
        # The last four: 1 keeps the sign, of a and b; 1 transposes, a and b. Integers have none.
        count = 0 if ".s32." in name else 4
        registers, (a, b, add, *flags) = values[: -3 - count], values[-3 - count :]
        if flags != ["1", "1", "0", "0"][:count]:
            raise EmulatorError(f"the emulator does not know {name} with the flags {flags}")
        return [f"&{registers[0]}", f"&{registers[-1]}", a, b, add]
    return values

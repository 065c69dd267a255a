"""What the parts of the mma.sync kernel are built with: instructions, parameters, the thread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.conv.gemm import Gemm
from schedules.conv.signature import Signature
from schedules.families.mma_sync.config import MmaSyncConfig

#: Halves of one copy.
VECTOR = 8
SHARED = "shared.dyn"


def ptx(instruction: str, *operands: Any) -> None:
    T.evaluate(T.ptx[instruction](*operands))


def local(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Registers of a thread: an array that is only ever indexed by constants."""
    return IRBuilder.name(name, T.alloc_buffer(shape, dtype, scope="local"))


def bind(name: str, value: Any) -> Any:
    """A variable of that name; a number stays one."""
    return value if isinstance(value, int) else IRBuilder.name(name, T.bind(value))


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """What is written inside is done where the condition holds."""
    with T.If(condition), T.Then():
        yield


@dataclass(frozen=True)
class Parameters:
    """Every operand as one row of elements; None where the workload has none."""

    x: Any
    weight: Any
    bias: Any
    slope: Any
    residual: Any
    y: Any

    @classmethod
    def declare(cls, signature: Signature) -> Parameters:
        """Declares the kernel's parameters in order."""
        found = {
            one.name: T.arg(one.name, T.buffer(one.shape, one.dtype, buffer_name=one.name))
            for one in signature
        }
        return cls(**{f.name: _flat(f.name, found.get(f.name)) for f in fields(cls)})


def _flat(name: str, buffer: Any) -> Any:
    if buffer is None:
        return None
    size = math.prod(int(extent) for extent in buffer.shape)
    return IRBuilder.name(name, T.decl_buffer((size,), buffer.dtype, data=buffer.data))


@dataclass(frozen=True)
class Thread:
    """Which thread this is, and which outputs its block and warp compute."""

    number: Any
    lane: Any
    warp_m: Any
    warp_k: Any
    warp_i: Any
    #: Which part of the reduction its block has.
    rank: Any
    group: Any
    #: First row and column of the block.
    m: Any
    k: Any

    @classmethod
    def launch(cls, gemm: Gemm, config: MmaSyncConfig, scopes: ExitStack) -> Thread:
        """Inside of `scopes`, which end with the kernel."""

        def axis(name: str, extent: int) -> Any:
            return scopes.enter_context(T.launch_thread(name, extent))

        tile, split = config.tile, config.split
        blocks_m, blocks_k = gemm.m_pad // tile.m, gemm.k_pad // tile.k
        block = axis("blockIdx.x", gemm.blocks * split)
        rank = axis("clusterCtaIdx.x", split) if split > 1 else 0
        number = axis("threadIdx.x", config.threads)
        block, warp = bind("block", block // split), bind("warp", number // 32)
        # Within a group: as many blocks of rows as `swizzle` says for each column of blocks.
        swizzle, in_group = config.swizzle, bind("in_group", block % (blocks_m * blocks_k))
        block_m = in_group // (swizzle * blocks_k) * swizzle + in_group % swizzle
        block_k = in_group // swizzle % blocks_k
        return cls(
            number,
            bind("lane", number % 32),
            bind("warp_m", warp % config.warps_m),
            bind("warp_k", warp // config.warps_m % config.warps_k),
            bind("warp_i", warp // (config.warps_m * config.warps_k)),
            rank,
            bind("group", block // (blocks_m * blocks_k)),
            bind("block_m", block_m * tile.m),
            bind("block_k", block_k * tile.k),
        )

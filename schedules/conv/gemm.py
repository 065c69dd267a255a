"""The implicit GEMM of a convolution: its sizes, its indices, its packed weight.

Each group g is a GEMM of its own. Rows m are output pixels, columns k the group's output channels;
(o, i) numbers filter taps and the group's input channels. Plain Python: indices are numbers or TVM
expressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from schedules.conv.workload import ConvWorkload, round_up


@dataclass(frozen=True)
class Tile:
    """The tile that the GEMM is padded to: rows, columns, and k-block of a block."""

    m: int
    k: int
    i: int
    #: Rows and columns of a packed weight tile: the instruction's k and n.
    fragment_i: int = 16
    fragment_k: int = 16


#: Columns of tiles. The number of rows, and so the batch, decides between them.
TILES_K = (32, 64, 128)


def suits_columns(k: int, tile_k: int) -> bool:
    """Returns True if tiles of so many columns pad k output channels by at most a third."""
    return 3 * round_up(k, tile_k) <= 4 * round_up(k, min(TILES_K))


def stored_columns(k: int) -> int:
    """Returns the least number of columns in the packed weight of k output channels.

    As many as any suitable tile reads, so that the weight is the same at every batch. No kernel
    gets slower by it.
    """
    return max(round_up(k, tile_k) for tile_k in TILES_K if suits_columns(k, tile_k))


@dataclass(frozen=True)
class Reduction:
    """The numbering of filter taps (r, s) and input channels c by (o, i).

    Per tap: o = (r, s), i = c. By rows: o = r, i = (s, c), which pads less for few channels: a 7x7
    filter over 3 channels takes 7 x 32 steps instead of 49 x 16. Copies of 16 bytes need whole
    blocks of channels, so a channel count divisible by 8 always goes per tap.
    """

    outer: int
    inner: int
    by_rows: bool

    @classmethod
    def of(cls, w: ConvWorkload, fragment: int = 16) -> Reduction:
        """Returns the reduction of a workload. fragment: the k of the instruction."""
        c = w.group_c
        if c % 8:
            per_tap = w.r * w.s * round_up(c, fragment)
            rows = w.r * round_up(w.s * c, fragment)
            if rows < per_tap:
                return cls(w.r, w.s * c, True)
        return cls(w.r * w.s, c, False)

    def tap(self, w: ConvWorkload, o: Any, i: Any) -> tuple[Any, Any, Any]:
        """Returns (r, s, c) of reduction index (o, i). Takes numbers or TVM expressions."""
        if self.by_rows:
            return o, i // w.group_c, i % w.group_c
        return o // w.s, o % w.s, i


@dataclass(frozen=True)
class Gemm:
    """Sizes of the implicit GEMM of each of `groups`, and the tile that they are padded to."""

    groups: int
    m: int
    k: int
    reduction: Reduction
    tile: Tile

    @classmethod
    def of(cls, w: ConvWorkload, tile: Tile) -> Gemm:
        """Returns the implicit GEMM of a workload, for a tile."""
        rows = round_up(w.n, w.out_layout.n) * w.p * w.q
        return cls(w.groups, rows, w.group_k, Reduction.of(w, tile.fragment_i), tile)

    @property
    def m_pad(self) -> int:
        """Rows, padded."""
        return round_up(self.m, self.tile.m)

    @property
    def k_pad(self) -> int:
        """Columns, padded."""
        return round_up(self.k, self.tile.k)

    @property
    def weight_columns(self) -> int:
        """Columns of a group's packed weight. The GEMM reads the first `k_pad`."""
        return max(self.k_pad, stored_columns(self.k))

    @property
    def i_pad(self) -> int:
        """Inner reduction size, padded."""
        return round_up(self.reduction.inner, self.tile.i)

    @property
    def padded_macs(self) -> int:
        """Multiply-adds that are executed, padding included."""
        return self.groups * self.m_pad * self.k_pad * self.reduction.outer * self.i_pad

    @property
    def blocks(self) -> int:
        """Number of output tiles."""
        return self.groups * (self.m_pad // self.tile.m) * (self.k_pad // self.tile.k)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the packed weight, (g, o, i/16, k/16, 16, 16); see `pack_weight`."""
        fi, fk = self.tile.fragment_i, self.tile.fragment_k
        outer = (self.groups, self.reduction.outer)
        return (*outer, self.i_pad // fi, self.weight_columns // fk, fi, fk)


def pixel(w: ConvWorkload, m: Any) -> tuple[Any, Any, Any]:
    """Returns (n, p, q) of GEMM row m; innermost is n within a packed block, then q, p."""
    n_in, rest = m % w.out_layout.n, m // w.out_layout.n
    block = rest // (w.p * w.q)
    return block * w.out_layout.n + n_in, rest // w.q % w.p, rest % w.q


def gemm_index(w: ConvWorkload, *index: Any) -> tuple[Any, ...]:
    """Returns (m, k) of the output element at `index`, the inverse of `pixel`.

    For several groups `index` is (n, p, q, g, k) and the result is (g, m, k). Written without
    division, so that TVM sees that consecutive m are consecutive in memory.
    """
    if w.groups > 1:
        n, p, q, g, k = index
        return g, (n * w.p + p) * w.q + q, k
    if not w.out_layout.packed:
        n, p, q, k = index
        return (n * w.p + p) * w.q + q, k
    block, p, q, k_block, n_in, k_in = index
    m = ((block * w.p + p) * w.q + q) * w.out_layout.n + n_in
    return m, k_block * w.out_layout.c + k_in


def pack_weight(w: ConvWorkload, tile: Tile, weight: NDArray[Any]) -> NDArray[Any]:
    """Returns a weight (K, C/groups, R, S) as (g, o, i/16, k/16, 16, 16), zero-padded.

    The dtype is the one that is multiplied. One 16 x 16 tile is one operand of the instruction.
    """
    dtype = dtypes.get(w.precision.operands[1]).numpy
    gemm = Gemm.of(w, tile)
    outer, inner = gemm.reduction.outer, gemm.reduction.inner
    grouped = weight.reshape(w.groups, w.group_k, w.group_c, w.r, w.s)
    taps = grouped.transpose(0, 3, 4, 2, 1).reshape(w.groups, outer, inner, w.group_k)
    padded = np.zeros((w.groups, outer, gemm.i_pad, gemm.weight_columns), dtype)
    padded[:, :, :inner, : w.group_k] = taps.astype(dtype)
    fi, fk = tile.fragment_i, tile.fragment_k
    tiles = padded.reshape(w.groups, outer, gemm.i_pad // fi, fi, gemm.weight_columns // fk, fk)
    return np.ascontiguousarray(tiles.transpose(0, 1, 2, 4, 3, 5))

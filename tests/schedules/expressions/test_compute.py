"""The numbering of the implicit GEMM, and how constants are packed for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.conv.gemm import Gemm, Reduction, Tile, gemm_index, pack_weight, pixel
from schedules.conv.signature import Signature
from schedules.conv.workload import NHWC, PACKED, ConvWorkload, Epilogue, Layout
from schedules.family import Match
from schedules.machine.hardware import CPU
from schedules.registry import FAMILIES
from tests.support.workloads import workloads

tiles = st.builds(
    Tile,
    st.sampled_from((8, 16, 32, 48, 128)),
    st.sampled_from((32, 64, 96)),
    st.sampled_from((16, 32, 64)),
    st.just(16),
    st.sampled_from((8, 16, 32)),
)


@given(workloads())
def test_gemm_rows_number_every_pixel_once(w: ConvWorkload) -> None:
    """`gemm_index` takes the places of the output's layout to (m, k), and `pixel` takes m back."""
    if w.groups > 1:
        w = replace(w, out_layout=NHWC)
    gemm = Gemm.of(w, Tile(16, 16, 16))
    place = np.indices(w.out_shape, sparse=True)
    if w.groups > 1:
        place = (*place[:-1], *np.divmod(place[-1], w.group_k))
    *g, m, k = np.broadcast_arrays(*gemm_index(w, *place))
    k = g[0] * w.group_k + k if g else k
    place = np.indices(w.out_shape, sparse=True)
    n, p, q = pixel(w, m)
    for got, expected in zip((n, p, q, k), w.out_layout.element(*place), strict=True):
        np.testing.assert_array_equal(got, np.broadcast_to(expected, w.out_shape))
    # Onto the rows, without gaps and without two places for one (m, k).
    pairs = np.unique(np.stack([m.ravel(), k.ravel()]), axis=1)
    assert pairs.shape[1] == m.size
    assert set(m.ravel()) == set(range(gemm.m))


@given(workloads())
def test_steps_of_the_reduction_number_every_tap_once(w: ConvWorkload) -> None:
    w = replace(w, groups=1)
    reduction = Reduction.of(w)
    steps = np.indices((reduction.outer, reduction.inner)).reshape(2, -1)
    r, s, c = reduction.tap(w, *steps)
    assert r.size == w.r * w.s * w.c
    assert len({*zip(r, s, c, strict=True)}) == r.size
    assert (r.max(), s.max(), c.max()) == (w.r - 1, w.s - 1, w.c - 1)


@pytest.mark.parametrize(
    ("c", "by_rows", "steps"),
    [
        (3, True, 7 * 32),  # the stem: not 49 x 16
        (4, True, 7 * 32),
        (1, True, 7 * 16),
        (8, False, 49 * 16),  # by rows would pad less, but could not copy 16 bytes
        (16, False, 49 * 16),
        (20, True, 7 * 144),
    ],
)
def test_few_channels_are_reduced_by_rows(c: int, by_rows: bool, steps: int) -> None:
    w = ConvWorkload(1, 9, 9, c, 16, 7, 7)
    gemm = Gemm.of(w, Tile(16, 16, 16))
    assert gemm.reduction.by_rows is by_rows
    assert gemm.reduction.outer * gemm.i_pad == steps


@given(workloads(), tiles, st.integers(0, 99))
def test_packed_weight_is_the_weight_where_the_gemm_looks_for_it(
    w: ConvWorkload, tile: Tile, seed: int
) -> None:
    gemm = Gemm.of(w, tile)
    weight = np.random.default_rng(seed).standard_normal((w.k, w.group_c, w.r, w.s))
    weight = weight.astype(np.float16)
    packed = pack_weight(w, tile, weight)
    assert packed.dtype == np.float16
    assert packed.shape == gemm.weight_shape
    assert packed.flags.c_contiguous
    # As `implicit_gemm` reads it: of every (o, i, k), padding included.
    extents = (w.groups, gemm.reduction.outer, gemm.i_pad, gemm.k_pad)
    g, o, i, k = np.indices(extents, sparse=True)
    fi, fk = tile.fragment_i, tile.fragment_k
    read = packed[g, o, i // fi, k // fk, i % fi, k % fk]
    r, s, c = gemm.reduction.tap(w, o, np.minimum(i, gemm.reduction.inner - 1))
    real = (i < gemm.reduction.inner) & (k < w.group_k)
    channel = g * w.group_k + np.minimum(k, w.group_k - 1)
    expected = np.where(real, weight[channel, c, r, s], 0)
    np.testing.assert_array_equal(read, expected)


def test_packed_weight_of_a_wider_dtype_is_rounded() -> None:
    w = ConvWorkload(1, 4, 4, 16, 16, 1, 1)
    weight = np.random.default_rng(0).standard_normal((16, 16, 1, 1)).astype(np.float32)
    packed = pack_weight(w, Tile(16, 16, 16), weight)
    np.testing.assert_array_equal(packed[0, 0, 0, 0], weight[:, :, 0, 0].T.astype(np.float16))


def test_packed_bias_is_padded_with_zeros() -> None:
    w = ConvWorkload(1, 4, 4, 16, 20, 1, 1, out_layout=PACKED)
    signature = Signature.of(replace(w, epilogue=Epilogue(bias=True)), (1,))
    packed = signature.pack({"bias": np.arange(1, 21)}, weight=np.ones(1, np.float16))["bias"]
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed, [*range(1, 21), *[0] * 12])


@given(workloads(largest=40, channels=99))
def test_padding_is_counted_and_never_negative(w: ConvWorkload) -> None:
    for family in FAMILIES:
        match = family.match(w, CPU)
        if isinstance(match, Match):
            assert family.padded_macs(w, match.config) >= w.useful_macs


def test_padded_macs_by_hand() -> None:
    w = ConvWorkload(5, 7, 7, 20, 40, 3, 3, padding=(1, 1, 1, 1))
    # 245 pixels, 40 outputs, 3 rows of 60 taps and channels, rounded up to the tile.
    assert Gemm.of(w, Tile(64, 32, 32)).padded_macs == 256 * 64 * 3 * 64
    # Packed by 16 images the pixels are 784: batch padding is waste as well.
    packed = replace(w, in_layout=PACKED, out_layout=PACKED)
    assert Gemm.of(packed, Tile(64, 32, 32)).padded_macs == 832 * 64 * 3 * 64
    # Exactly fitting, nothing is wasted.
    fitting = ConvWorkload(16, 4, 4, 32, 64, 1, 1, in_layout=PACKED, out_layout=PACKED)
    assert Gemm.of(fitting, Tile(64, 32, 32)).padded_macs == fitting.useful_macs
    (direct,) = (family for family in FAMILIES if family.name == "direct")
    assert direct.padded_macs(w, None) == w.useful_macs
    assert direct.padded_macs(packed, None) == w.useful_macs * 16 // 5 * 48 // 40
    layout = Layout(1, 16)
    assert direct.padded_macs(replace(w, out_layout=layout), None) == w.useful_macs * 48 // 40

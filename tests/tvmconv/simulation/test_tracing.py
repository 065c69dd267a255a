"""From a convolution to its HMMA: what is listed is what the network computes."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.support.models import Graph, random_feed
from tests.support.thinned import thinned
from tvmconv.errors import TvmconvError


def network() -> Any:
    """Three convolutions alike, so of one kernel; then one of three groups, with a stride."""
    g = Graph([2, 24, 7, 6])
    x = "input"
    for name in ("a", "b", "c"):
        x = g.conv(x, 24, 24, bias=False, name=name)
    return g.model(
        "a", "b", "c", g.conv(x, 24, 36, group=3, strides=[2, 1], bias=False, name="grouped")
    )


FEED = random_feed((2, 24, 7, 6))
#: Of layers of 24 channels: 9 taps of 2 WMMAs. Of a group of 8: 9 of one.
WMMAS = {"a": 18, "b": 18, "c": 18, "grouped": 9}


@pytest.fixture(scope="module")
def exe() -> tvmconv.Executable:
    return tvmconv.build(network(), "hmma-sim", activations="float32")


def trace(exe: tvmconv.Executable, layer: str, tile: tuple[int, int], **options: Any) -> Any:
    return tvmconv.trace_layer(exe, FEED, layer, tile, **options)


@pytest.mark.parametrize("layer", thinned(["a", "b", "c", "grouped"], 3))
def test_the_last_wmma_of_a_tile_leaves_what_the_network_gives(
    exe: tvmconv.Executable, layer: str
) -> None:
    output = exe.run(FEED)[layer].transpose(0, 2, 3, 1)
    pixels = output.reshape(-1, output.shape[-1])
    # A group of 12 channels is a tile, of 24 two.
    tiles = {0: slice(0, 12), 2: slice(24, 36)} if layer == "grouped" else {1: slice(16, 24)}
    for column, channels in tiles.items():
        for row in (0, (len(pixels) - 1) // 16):
            found = trace(exe, layer, (row, column), wmma=WMMAS[layer] - 1)
            expected = pixels[16 * row : 16 * row + 16, channels]
            assert np.array_equal(found.d[: len(expected), : expected.shape[1]], expected)
            assert not found.d[len(expected) :].any()


def test_a_wmma_goes_on_where_the_one_before_it_ended(exe: tvmconv.Executable) -> None:
    found = [trace(exe, "b", (2, 0), wmma=at) for at in range(3)]
    assert not found[0].c.any()
    for before, after in pairwise(found):
        assert np.array_equal(before.d, after.c)
        assert not np.array_equal(before.a, after.a)


def test_operands_are_the_pixels_and_weights_that_the_title_names(exe: tvmconv.Executable) -> None:
    """Tile 1,0 of "a": rows are pixels 16 to 31, WMMA 8 is the middle tap, channels 0 to 15."""
    found = trace(exe, "a", (1, 0), lane=13, wmma=8)
    pixels = FEED["input"].transpose(0, 2, 3, 1).reshape(-1, 24)[16:32, :16]
    assert np.array_equal(found.a, pixels.astype(np.float16))
    text = str(found)
    assert "layer a: 2x7x6x24 -> 24, 3x3; a product of 84 x 24 x 288" in text
    assert "tile 1,0: output pixels (0, 2, 4) to (0, 5, 1); channels 0 to 15" in text
    assert "WMMA 8 of 18: tap (1, 1), input channel 0 to tap (1, 1), input channel 15" in text
    # Lane 13: thread 1 of threadgroup 3, the upper one's partner of octet 3.
    assert "lane 13: row 9 of A, output pixel (0, 4, 1); of B channels 8 to 11" in text
    values = re.findall(r"([AB])\[(\d+),(\d+)\] = ([-\d.e]+)", found.listing)
    assert len(values) == 16 * 8
    for name, row, column, value in values:
        held = {"A": found.a, "B": found.b}[name][int(row), int(column)]
        assert str(float(held)) == value


def test_numerics_are_those_asked_for(exe: tvmconv.Executable) -> None:
    tiles = [trace(exe, "c", (0, 0), wmma=17, numerics=name).d for name in ("v100", "ieee")]
    assert not np.array_equal(*tiles)
    assert np.allclose(*tiles, atol=1e-4)


def test_the_example() -> None:
    found = tvmconv.trace_example(lane=5)
    a, b = (one.astype(np.float64) for one in (found.a, found.b))
    row, column = np.indices((16, 16))
    assert np.array_equal(a, row + column / 16)
    assert np.array_equal(b, row - column / 16)
    assert np.array_equal(found.d, a @ b), "all of it fits into fp32"
    lines = str(found).splitlines()
    assert lines[0] == "example: A[m, k] = m + k/16, B[k, n] = k - n/16, C = 0"
    at = lines.index("   10    1     0  HMMA.884.F32.F32.STEP0 R8, R24.ROW, R22.ROW, R8")
    # By hand: D[9, 0] is 9 * 0 + 9.0625 * 1 + 9.125 * 2 + 9.1875 * 3, D[9, 1] a sixteenth of the
    # sum of the row, 36.375, less.
    assert [line.strip() for line in lines[at + 1 : at + 7]] == [
        "octet 1, threadgroup 1: D[8:10, 0:4] = A[8:10, 0:4] B[0:4, 0:4] + C[8:10, 0:4]",
        "octet 1, threadgroup 5: D[12:14, 0:4] = A[12:14, 0:4] B[0:4, 0:4] + C[12:14, 0:4]",
        "R24, R25: A[9,0] = 9.0, A[9,1] = 9.0625, A[9,2] = 9.125, A[9,3] = 9.1875",
        "R22, R23: B[1,0] = 1.0, B[1,1] = 0.9375, B[1,2] = 0.875, B[1,3] = 0.8125",
        "R8, R9: C[9,0] = 0.0, C[9,1] = 0.0",
        "R8, R9: D[9,0] = 54.875, D[9,1] = 52.601562",
    ]
    assert sum("HMMA" in line for line in lines) == 16
    assert re.search(r"^ {3}54    4     3  HMMA", str(found), re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "d"}, "no layer 'd' on tensor cores\n.*one of a, b, c, grouped"),
        ({"tile": (6, 0)}, "no tile 6,0\n.*84 x 24 x 288\n.*I is 0 to 5, J 0 to 1"),
        ({"tile": (0, 2)}, "no tile 0,2"),
        ({"tile": (-1, 0)}, "no tile -1,0"),
        ({"wmma": 18}, "no WMMA 18\n.*0 to 17"),
        ({"lane": 32}, "no lane 32"),
        ({"numerics": "h100"}, "no listing with h100 numerics"),
        ({"numerics": "k80"}, "no numerics 'k80'"),
    ],
)
def test_what_there_is_no_trace_of(
    exe: tvmconv.Executable, options: dict[str, Any], said: str
) -> None:
    given = {"layer": "a", "tile": (0, 0), **options}
    with pytest.raises(TvmconvError, match=said):
        trace(exe, **given)

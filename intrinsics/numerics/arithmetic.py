"""The arithmetic of tensor cores: one record per chip, and the function that computes as it says.

NVIDIA does not document it; experiments have shown it. Each chip is a frozen record `Numerics`, and
`fused` computes on arrays as a record says.

A chip multiplies exactly and adds a *block* of products and the accumulator at once. All terms are
shifted right to the largest exponent among them. The bits below the last one kept are dropped, of
each term on its own, towards zero. The rest is added exactly; the sum is normalised and rounded
once. So the order inside a block does not matter but the order of blocks does, and a larger addend
can make the sum smaller.

Sources, cited by letter beside the constants:

- [F] Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer
  Science 7:e330 (2021), https://peerj.com/articles/cs-330/: V100, T4, A100.
- [K] Khattak, Mikaitis, Accurate Models of NVIDIA Tensor Cores, https://arxiv.org/abs/2512.07004,
  https://doi.org/10.1145/3830409, and the models and measured outputs published with it
  (north-numerical-computing/MATLAB-tensor-core on GitHub): V100, A100, H100, H200.
- [L] Li, Li, Fang, Swirydowicz, Laguna, Gopalakrishnan, FTTN: Feature-Targeted Testing for
  Numerical Properties of NVIDIA & AMD Matrix Accelerators, https://arxiv.org/abs/2403.00232: V100,
  A100, H100.
- [X] Xie, Wang, Yang, Yang, MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores,
  https://arxiv.org/abs/2511.10909, and its model (microsoft/MMA-Sim on GitHub): Volta to Blackwell.

- [T] This project, `benchmarks.hmma_numerics` on an H200: every bit of 10 million outputs of fp16
  to fp32, fp16 to fp16 and bf16 to fp32 each, over all exponents, with cancellation, subnormals,
  ties, infinities and NaN. With each neighbour of a constant some bits differ.

The records give every bit of the outputs that were measured for [K]: 5,000 with each operand and
accumulator dtype on a V100, an A100, an H100 and an H200, between 1e-4 and 18 in size. What that
does not reach (subnormal sums, overflow, NaN) rests on [T] for the H100, and for the others on the
sources alone; see `provisional`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from intrinsics.dtypes import BF16, FP16, FP32, ElementType
from intrinsics.numerics.aligned_sum import AlignedSum
from intrinsics.numerics.exact_sum import exact_sum, to_float

Array = NDArray[Any]
Shape = tuple[int, ...]

#: Operand types whose arithmetic is known.
OPERANDS = (FP16, BF16)

#: Name of the function that simulated kernels call: ``PRODUCT(numerics, X, Weight, Conv)`` writes
#: Conv (g, m, k) from X (g, o, m, i) and Weight (g, o, i/16, k/16, 16, 16), all padded; letters as
#: in `schedules.expressions.compute`. The process that runs kernels registers it.
PRODUCT = "tvmconv.simulated_product"
#: Outputs computed at a time, so that the temporaries of a block stay in a core's cache.
PIECE = 32768
#: A tensor core returns NaN with every bit but the sign set, whatever the input [X]. The other
#: arithmetics return the same, since NumPy's NaN depends on the processor.
NAN = {FP32.name: np.uint32(0x7FFFFFFF), FP16.name: np.uint16(0x7FFF)}


@dataclass(frozen=True)
class Numerics:
    """One way to add ``n`` products to an accumulator.

    ``exact`` adds a block without loss and rounds once, to nearest even. ``ieee`` is NumPy's
    float32, k ascending, rounded after every addition, the order of `intrinsics.emulate`.
    ``aligned`` is what chips do; see the module. An fp16 accumulator is rounded to nearest
    even: by ``ieee`` once, after all n; by the others after each block.
    """

    name: str
    arithmetic: Literal["exact", "ieee", "aligned"]
    #: Products that are added at once; 0 for all.
    block: int = 0
    #: Bits kept below those of fp32 (23 after the point) when a term is aligned.
    extra_bits: int = 0
    #: Smallest exponent that terms are aligned to, by the accumulator's dtype. It matters only for
    #: sums near the subnormal numbers.
    least_exponent: tuple[tuple[str, int], ...] = ((FP32.name, -126), (FP16.name, -24))
    #: A subnormal fp16 accumulator counts as having the least normal exponent, 2**-14 (True), or
    #: its own (False). A subnormal fp32 accumulator always counts as 2**-126.
    clamps_fp16: bool = False
    #: The accumulator is one term of each block's sum; else it is added to the rounded sum of the
    #: products, as a sum of two terms.
    joined: bool = True
    #: A negative sum that is rounded to zero keeps its sign; else zeros are positive.
    negative_zero: bool = True
    #: Fields that are uncertain, and why.
    provisional: str = ""

    def __post_init__(self) -> None:
        if self.block < 0 or (self.arithmetic == "aligned" and not self.block):
            raise ValueError(f"{self.name}: a block has at least one product, not {self.block}")
        # Terms are less than 2**(2 + 23 + extra bits) units; float64 adds up to 2**53 of them.
        if self.extra_bits < -23 or self.block * 2 ** (25 + self.extra_bits) > 2**53:
            raise ValueError(f"{self.name}: {self.extra_bits} are too few or too many extra bits")


EXACT = Numerics("exact", "exact")
IEEE = Numerics("ieee", "ieee", block=1)
V100 = Numerics(
    "v100",
    "aligned",
    block=4,  # [F] four products and the accumulator; [K], [L] the same
    extra_bits=0,  # [F] none; [K], [L] the same; [X] 23 bits after the point
    # [K] none for fp32 (nothing that fp16 operands give is smaller), -19 for fp16.
    least_exponent=((FP32.name, -126), (FP16.name, -19)),
    provisional="clamps_fp16 ([K] and [X] differ); negative_zero (not published)",
)
A100 = Numerics(
    "a100",
    "aligned",
    block=8,  # [F] eight for fp16 and bf16; [K], [L], [X] the same: m16n8k16 is two blocks in order
    extra_bits=1,  # [F] at least one; [K], [L] one; [X] 24 bits after the point
    least_exponent=((FP32.name, -132), (FP16.name, -20)),  # [K]; [X] has -126 and none
    provisional="least_exponent, clamps_fp16 ([K] and [X] differ); negative_zero (not published)",
)
H100 = Numerics(
    "h100",
    "aligned",
    block=16,  # [K], [X]: all of an m16n8k16 at once; [L] at least 16; [T]
    extra_bits=2,  # [K] two; [L] at least two; [X] 25 bits after the point; [T] two
    # [K], [T]. Nothing that fp16 operands give is as small as the first; bf16 operands tell it.
    least_exponent=((FP32.name, -133), (FP16.name, -21)),
    clamps_fp16=True,  # [T], as [X]
    negative_zero=False,  # [T]
)
NUMERICS = {numerics.name: numerics for numerics in (EXACT, IEEE, V100, A100, H100)}


def get(name: str) -> Numerics:
    """Returns the arithmetic of that name. Raises ``LookupError``, which lists the known names."""
    if name not in NUMERICS:
        raise LookupError(f"no arithmetic {name!r}: {', '.join(NUMERICS)}")
    return NUMERICS[name]


def matmul(a: Array, b: Array, c: Array, numerics: Numerics) -> Array:
    """Returns ``a @ b + c``: a (..., m, k), b (..., k, n), c and result (..., m, n). See
    `fused`.
    """
    return fused(a[..., :, None, :], np.swapaxes(b, -1, -2)[..., None, :, :], c, numerics)


def fused(a: Array, b: Array, c: Array, numerics: Numerics) -> Array:
    """Returns ``sum(a * b, axis=-1) + c`` as `numerics` computes it, block by block of the last
    axis.

    a and b are (..., n), c is (...); the leading axes broadcast. Both operands have one dtype of
    `OPERANDS`; c has one of its accumulator dtypes, and so has the result. A sum that is exactly
    zero is +0, except for ``ieee``. Raises ``ValueError`` for other dtypes or different lengths.
    """
    least = _operand(a, b).least_exponent
    if c.dtype.name not in FP16.accumulators:
        raise ValueError(f"accumulators are {' or '.join(FP16.accumulators)}, not {c.dtype}")
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a has {a.shape[-1]} elements along k, b has {b.shape[-1]}")
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1], c.shape)
    if not shape:  # NumPy's functions turn arrays without axes into numbers
        return np.asarray(fused(a[None], b[None], np.reshape(c, (1,)), numerics)[0])
    # One plane per k: products innermost would be strided.
    planes = [np.ascontiguousarray(np.moveaxis(x, -1, 0)) for x in (a, b)]
    out = np.array(np.broadcast_to(c, shape), dtype=np.float32)
    with np.errstate(all="ignore"):
        if numerics.arithmetic == "aligned":
            _aligned(numerics, planes, out, c.dtype.name, least)
        else:
            add = _ieee if numerics.arithmetic == "ieee" else _exact
            for piece, operands in _pieces([x.astype(np.float32) for x in planes], out):
                out[piece] = add(numerics, operands, out[piece], c.dtype)
        out = out.astype(c.dtype)
    out.view(f"u{out.itemsize}")[np.isnan(out)] = NAN[out.dtype.name]
    return out


def _operand(a: Array, b: Array) -> ElementType:
    for one in OPERANDS:
        if a.dtype == b.dtype == one.numpy:
            return one
    names = " or ".join(one.name for one in OPERANDS)
    raise ValueError(f"operands are {names}, not {a.dtype}, {b.dtype}")


def _aligned(numerics: Numerics, planes: list[Array], out: Array, dtype: str, least: int) -> None:
    # Sums are computed in fp32, where the subnormal numbers of fp16 are normal.
    narrow = dtype == FP16.name
    clamp = (FP16 if narrow and numerics.clamps_fp16 else FP32).least_exponent
    adder = AlignedSum(
        block=numerics.block,
        bits=23 + numerics.extra_bits,
        least=dict(numerics.least_exponent)[dtype],
        least_accumulator=clamp,
        narrow=narrow,
        joined=numerics.joined,
        negative_zero=numerics.negative_zero,
    )
    for piece, operands in _pieces(adder.prepare(planes, least), out):
        out[piece] = adder.add(operands, out[piece])


def _ieee(numerics: Numerics, planes: list[Array], total: Array, dtype: Any) -> Array:
    for left, right in zip(*planes, strict=True):
        total = total + left * right
    return total


def _exact(numerics: Numerics, planes: list[Array], total: Array, dtype: Any) -> Array:
    n = len(planes[0])
    block = numerics.block or max(n, 1)
    for start in range(0, n, block):
        left, right = (x[start : start + block].astype(np.float64) for x in planes)
        terms = (x * y for x, y in zip(left, right, strict=True))
        total = to_float(*exact_sum(terms, total.astype(np.float64)), dtype).astype(np.float32)
    return total


def _pieces(planes: list[Array], out: Array) -> Iterator[tuple[tuple[slice, ...], list[Array]]]:
    """Yields parts of `out` of at most `PIECE` elements: an index, and the planes (n, ...)
    there.
    """
    spread = []
    for x in planes:
        missing = out.ndim + 1 - x.ndim
        wide = x.reshape(x.shape[0], *(1,) * missing, *x.shape[1:])
        spread.append(np.broadcast_to(wide, (len(x), *out.shape)))
    for piece in _indices(out.shape):
        yield piece, [x[(slice(None), *piece)] for x in spread]


def _indices(shape: Shape) -> Iterator[tuple[slice, ...]]:
    if prod(shape) <= PIECE:
        yield ()
        return
    rows = PIECE // prod(shape[1:])
    for start in range(0, shape[0], max(rows, 1)):
        part = slice(start, start + max(rows, 1))
        if rows:
            yield (part,)
        else:
            yield from ((part, *rest) for rest in _indices(shape[1:]))

"""The operands of the WGMMA kernel as the copy engine sees them."""

from __future__ import annotations

from intrinsics import wgmma
from schedules.families.wgmma.plan import Plan, corners
from schedules.threads.tensor_map import Im2col, Matrix


def pixels(plan: Plan) -> Im2col | Matrix:
    """x, of which a copy takes `rows` output pixels by `depth` channels, moved by a filter tap,
    with zeros in the padding; the rows of a matrix where pixels are in order."""
    w, rows, swizzle = plan.w, plan.config.rows, wgmma.TENSOR_MAP_SWIZZLE[plan.row_bytes]
    pixel = plan.operand.bytes * w.c
    if plan.flat:
        promotion = wgmma.TENSOR_MAP_PROMOTION
        return Matrix((w.c, plan.m), pixel, (plan.depth, rows), swizzle, promotion)
    left, top, right, bottom = corners(w)
    return Im2col(
        sizes=(w.c, w.w, w.h, w.n),
        strides=(pixel, pixel * w.w, pixel * w.w * w.h),
        lower=(left, top),
        upper=(right, bottom),
        channels=plan.depth,
        pixels=rows,
        steps=(w.stride[1], w.stride[0]),
        swizzle=swizzle,
    )


def output(plan: Plan) -> Matrix:
    """y as an (M, K) matrix, of which a copy takes a piece. Columns end with the convolution's
    own, so that a last tile stores no further."""
    first, channels = output_place(plan)
    return _pieces(plan, first + plan.w.k, channels)


def output_place(plan: Plan) -> tuple[int, int]:
    """First channel of the tensor that is stored to, and how many a pixel of it has."""
    window = plan.w.window
    return (0, plan.w.k) if window is None else (window.channel, window.channels)


def residual(plan: Plan) -> Matrix:
    """The residual as an (M, K) matrix, of which a copy takes a piece."""
    return _pieces(plan, plan.w.k, plan.w.k)


def _pieces(plan: Plan, columns: int, channels: int) -> Matrix:
    size, piece = plan.stored.bytes, plan.piece
    swizzle = wgmma.TENSOR_MAP_SWIZZLE[size * piece]
    return Matrix((columns, plan.m), size * channels, (piece, wgmma.M), swizzle)

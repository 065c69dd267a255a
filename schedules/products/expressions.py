"""Products and attention in tensor expressions, tensorized on WMMA's emulation: for a CPU.

    a[.., m, k], b[.., k, n]   gathered out of views, padded with zeros to whole fragments
    product[.., m, n]          sum over k of a * b
    y                          scale * product + added

Weights of attention are divided by their sum before they are rounded; the kernel that is written
thread by thread knows the sum only at the end, and divides the result.
"""

from __future__ import annotations

from tvm import te, tirx
from tvm.ir import Expr
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from intrinsics import wmma
from intrinsics.dtypes import FP32
from intrinsics.lower import lower
from schedules.conv.layout import round_up
from schedules.expressions.compute import Placeholders, TvmMath, placeholders
from schedules.expressions.elsewhere import written_to
from schedules.machine.hardware import Hardware
from schedules.products.view import View
from schedules.products.workload import ADDED, KEY, MASK, QUERY, A, B, ProductWorkload, Y

FRAGMENT = 16
SHARED = "shared.dyn"
#: Names of blocks: each product's, and the operands gathered for it.
SECOND, FIRST = "product", "scores"
#: The stages between two products, each computed for the rows of a fragment.
SOFTMAX = ("scaled", "largest", "power", "total", "weights")


def finished(w: ProductWorkload, total: Expr, added: Expr | None) -> Expr:
    """Returns the formula of `ProductWorkload`, in fp32. added: an element in its own dtype."""
    value = total if w.scale == 1 else total * TvmMath.real(w.scale)
    if added is not None:
        value = value + added.astype(FP32.name)
    return value


def kernel(w: ProductWorkload, hardware: Hardware) -> tirx.PrimFunc:
    """Returns the scheduled function for a CPU, of the operands of `ProductWorkload.signature`."""
    given = placeholders(w.signature)
    first = w.first
    if first is None:
        assert w.a is not None
        a = _gathered(w.a, given[A], A)
    else:
        a = _weights(w, given)
    product = _product(a, _gathered(w.b, given[B], B), SECOND)

    def value(*index: Expr) -> Expr:
        added = None if w.added is None else given[ADDED](w.added.view.at(index))
        return finished(w, product(*index), added).astype(w.precision.result)

    y = te.compute(w.y.shape, value, name=Y)
    function = te.create_prim_func([*given.values(), y])
    buffer = tirx.decl_buffer((w.y.size,), w.precision.result, Y)
    function = written_to(function, buffer, lambda index: [w.y.at(index)])
    return _scheduled(function, w, hardware)


def _weights(w: ProductWorkload, given: Placeholders) -> te.Tensor:
    """The softmax of the first product."""
    first = w.first
    assert first is not None
    assert first.a is not None
    queries, keys = _gathered(first.a, given[QUERY], QUERY), _gathered(first.b, given[KEY], KEY)
    product = _product(queries, keys, FIRST)
    shape, count = product.shape, first.n

    def scaled(*index: Expr) -> Expr:
        inside = [index[-1] < count]
        added = None
        if first.added is not None:
            inside.append(index[-2] < first.m)
            added = given[MASK](first.added.view.at(index))
        value = finished(first, product(*index), added)
        return tirx.if_then_else(tirx.all(*inside), value, TvmMath.real(0.0))

    scores = te.compute(shape, scaled, name="scaled")
    over = te.reduce_axis((0, count), "over")
    rows = shape[:-1]
    largest = te.compute(rows, lambda *at: te.max(scores(*at, over), axis=over), name="largest")

    def power(*index: Expr) -> Expr:
        value = tirx.exp(scores(*index) - largest(*index[:-1]))
        return tirx.if_then_else(index[-1] < count, value, TvmMath.real(0.0))

    powers = te.compute(shape, power, name="power")
    along = te.reduce_axis((0, count), "along")
    total = te.compute(rows, lambda *at: te.sum(powers(*at, along), axis=along), name="total")

    def weight(*index: Expr) -> Expr:
        value = powers(*index) / total(*index[:-1])
        if w.nan_to_zero:
            value = tirx.if_then_else(tirx.isnan(value), TvmMath.real(0.0), value)
        return value.astype(w.precision.x)

    return te.compute(shape, weight, name="weights")


def _gathered(view: View, source: te.Tensor, name: str) -> te.Tensor:
    """The matrices of a view, padded with zeros to whole fragments."""
    *batch, rows, columns = view.shape
    padded = round_up(rows, FRAGMENT), round_up(columns, FRAGMENT)

    def element(*index: Expr) -> Expr:
        inside = [index[-2] < rows] * (padded[0] > rows) + [index[-1] < columns] * (
            padded[1] > columns
        )
        value = source(view.at(index))
        zero = tirx.const(0, source.dtype)
        return tirx.if_then_else(tirx.all(*inside), value, zero) if inside else value

    return te.compute((*batch, *padded), element, name=f"{name}_gathered")


def _product(a: te.Tensor, b: te.Tensor, name: str) -> te.Tensor:
    """The matrix product of each index of the batch, in fp32."""
    term = te.reduce_axis((0, a.shape[-1]), "k")

    def total(*index: Expr) -> Expr:
        *batch, m, n = index
        left, right = a(*batch, m, term), b(*batch, term, n)
        return te.sum(left.astype(FP32.name) * right.astype(FP32.name), axis=term)

    return te.compute((*a.shape[:-1], b.shape[-1]), total, name=name)


# ---------------------------------------------------------------- the schedule


def _scheduled(function: tirx.PrimFunc, w: ProductWorkload, hardware: Hardware) -> tirx.PrimFunc:
    """Rows of fragments in parallel, each through all that is computed of it."""
    sch = Schedule(function)
    row = _rows(sch)
    sch.reverse_compute_at(sch.get_sblock(Y), row, preserve_unit_loops=True)
    if w.first is not None:
        for name in (*reversed(SOFTMAX), FIRST):
            sch.compute_at(sch.get_sblock(name), row, preserve_unit_loops=True)
        sch.set_scope(sch.get_sblock(SOFTMAX[-1]), 0, SHARED)
        _tensorize(sch, FIRST, (QUERY, KEY), row, w, hardware)
    _tensorize(sch, SECOND, (A if w.first is None else "", B), row, w, hardware)
    return sch.mod["main"]


def _rows(sch: Schedule) -> LoopRV:
    """Splits the result into rows of fragments; returns their loop."""
    *batch, m, n, k = sch.get_loops(sch.get_sblock(SECOND))
    m, inner = sch.split(m, [None, FRAGMENT])
    sch.reorder(*batch, m, inner, n, k)
    row = sch.fuse(*batch, m)
    sch.parallel(row)
    return row


def _tensorize(
    sch: Schedule,
    name: str,
    operands: tuple[str, str],
    row: LoopRV,
    w: ProductWorkload,
    hardware: Hardware,
) -> None:
    """Multiplies a row of fragments by instructions. operands: those that are gathered."""
    product, dtypes = sch.get_sblock(name), w.precision.operands
    intrinsic = wmma.get(FRAGMENT, FRAGMENT, FRAGMENT, dtypes, w.precision.accumulator)
    lowered = lower(intrinsic, hardware.form, SHARED)
    m, n, k = sch.get_loops(product)[-3:]
    (n, in_n), (k, in_k) = (sch.split(loop, [None, FRAGMENT]) for loop in (n, k))
    sch.reorder(n, k, m, in_n, in_k)
    result = sch.cache_write(product, 0, intrinsic.accumulator_scope)
    sch.set_scope(result, 0, SHARED)
    sch.reverse_compute_at(result, n, preserve_unit_loops=True)
    a = sch.cache_read(product, 0, intrinsic.a_scope)
    b = sch.cache_read(product, 1, intrinsic.b_scope)
    for fragment in (a, b):
        sch.compute_at(fragment, k, preserve_unit_loops=True)
    for operand, loop in zip(operands, (row, k), strict=True):
        if operand:
            gathered = sch.get_sblock(f"{operand}_gathered")
            sch.compute_at(gathered, loop, preserve_unit_loops=True)
            sch.set_scope(gathered, 0, SHARED)
    init = sch.decompose_reduction(product, k)
    sch.tensorize(sch.get_loops(init)[-2], lowered.fill)
    sch.tensorize(sch.get_loops(product)[-3], lowered.mma)
    for block, form in ((a, lowered.load_a), (b, lowered.load_b), (result, lowered.store)):
        sch.tensorize(sch.get_loops(block)[-2], form)

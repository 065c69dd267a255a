"""Find products of two tensors of which neither is a constant matrix, and attention.

Before:  k = permute_dims(split(reshape(qkv))[1]); s = matmul(q * 0.125, k); w = softmax(s + mask);
         y = reshape(permute_dims(matmul(w, v)))
After:   y = call_dps_packed("tvmconv.attention.0", (qkv, qkv, mask, qkv)), and a `Product` that
         describes it; `lower_convs` replaces the call by a kernel
Requires: operands that are views of tensors, and a result that is one (`views`); no other reader of
          what is between both products; a kernel that takes the workload. What is left is TVM's.
Formula: `schedules.products.workload.ProductWorkload`. A product with a transposed softmax on its
         right is the transpose of one with the softmax on its left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from intrinsics import dtypes
from schedules.machine.hardware import Hardware
from schedules.products.choose import refusal
from schedules.products.view import View
from schedules.products.workload import Added, ProductWorkload
from tvmconv.passes.graph import Dataflow, array, bindings, dtype, op_name, shape, with_bindings
from tvmconv.passes.plan.magnitudes import ATTENTION, CALL
from tvmconv.passes.views import MOVES, Traced, scalar_of, traced

MATMUL = "relax.matmul"
FP32 = dtypes.FP32.name


@dataclass(frozen=True)
class Product:
    """A product, or attention, that one kernel computes.

    symbol: the function that stands for the kernel. products: the variables of its matrix products,
    in order. reads: its operands in the order of the workload's signature, without the result.
    inside: the variables that it replaces, the one that it computes last. before: those that move
    its operands. layers, nodes: the ONNX nodes of its matrix products, in order, and of all
    variables that it makes needless.
    """

    symbol: str
    workload: ProductWorkload
    products: tuple[relax.Var, ...]
    reads: tuple[relax.Expr, ...]
    inside: tuple[relax.Var, ...]
    before: tuple[relax.Var, ...]
    layers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def output(self) -> relax.Var:
        """The variable that the kernel computes."""
        return self.inside[-1]


#: By their symbols.
Products = Mapping[str, Product]


def find_products(
    mod: tvm.IRModule, hardware: Hardware, names: Mapping[relax.Var, str]
) -> tuple[tvm.IRModule, Products, dict[str, str]]:
    """The module with every product that a kernel takes as one call; what each call is; and why
    others are TVM's, by ONNX node.

    names: of ONNX nodes, by the variables that are their results.
    """
    flow = Dataflow.of(mod)
    known = _Known(flow)
    found = known.found
    declined: dict[relax.Var, str] = {}
    for find in (_attention, _product):
        for var, call in flow.calls(MATMUL):
            if var in known.inside or not _computed(call):
                continue
            product = find(var, known)
            if product is None:
                continue
            if reason := refusal(product.workload, hardware):
                declined[var] = reason
                continue
            kind = "tvmconv.product." if product.workload.first is None else ATTENTION
            product = replace(product, symbol=f"{kind}{len(found)}")
            known.add(product)
    why = {
        names[var]: one for var, one in declined.items() if var in names and var not in known.inside
    }
    if not found:
        return mod, {}, why
    new = [
        relax.VarBinding(one.var, _call(found[one.var])) if one.var in found else one
        for one in bindings(mod)
    ]
    mod = with_bindings(mod, new, mod["main"].body.body)
    tidy = [relax.transform.Normalize(), relax.transform.DeadCodeElimination(["main"])]
    mod = tvm.transform.Sequential(tidy)(mod)
    left = set(Dataflow.of(mod).values)
    named = {}
    for product in found.values():
        gone = [one for one in (*product.before, *product.inside) if one not in left]
        gone.append(product.output)
        nodes = dict.fromkeys(names[one] for one in gone if one in names)
        layers = tuple(names[one] for one in product.products if one in names)
        named[product.symbol] = replace(product, layers=layers, nodes=tuple(nodes))
    return mod, named, why


class _Known:
    """A graph, and the products that are found in it so far, by the variable that each computes.

    inside: variables that no longer exist, or are computed by a product. sources: those that
    products read, which go on existing.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.found: dict[relax.Var, Product] = {}
        self.inside: set[relax.Var] = set()
        self.sources: set[relax.Expr] = set()

    def add(self, product: Product) -> None:
        """Notes a product."""
        self.found[product.output] = product
        self.inside.update(product.inside)
        self.sources.update(one for one in product.reads if isinstance(one, relax.Var))

    def traced(self, value: relax.Expr) -> Traced:
        """The view that a tensor is of one that goes on existing."""
        return traced(value, self.flow, self.found)

    def after(self, var: relax.Var) -> relax.Var | None:
        """The only reader of a tensor that nothing else needs, if that is in no product yet."""
        reader = None if var in self.sources else self.flow.sole_reader(var)
        return None if reader in self.inside else reader


def _computed(call: relax.Call) -> bool:
    """True for a product of two tensors of floats, which is no convolution's."""
    a, b = call.args
    constant = array(b) is not None and len(shape(b)) == 2
    return not constant and dtype(a) == dtype(b) == FP32 and min(len(shape(a)), len(shape(b))) > 1


def _call(product: Product) -> relax.Call:
    out = product.output.ty
    return relax.call_dps_packed(product.symbol, list(product.reads), out)


# ---------------------------------------------------------------- one product


def _product(var: relax.Var, known: _Known) -> Product | None:
    """A product by itself, with the scale and the addend behind it."""
    flow = known.flow
    a, b = (known.traced(one) for one in flow.values[var].args)
    if not (_narrows(a) and _narrows(b)):
        return None
    inside, scale, addend = [var], 1.0, None
    while (after := known.after(inside[-1])) is not None:
        factor = _scaled_by(after, inside[-1], flow)
        if factor is None:
            break
        inside.append(after)
        scale *= factor
    last = inside[-1]
    if after is not None and flow.op(after) == "relax.add" and shape(after) == shape(last):
        one, other = flow.values[after].args
        found = known.traced(other if one.same_as(last) else one)
        if found.scale == 1 and dtype(found.source) == FP32 and _suits(found.view, shape(last)):
            addend = found
            inside.append(after)
    return _made(_Sides(a, b, var, scale, addend), None, inside, known)


# ---------------------------------------------------------------- attention


def _attention(var: relax.Var, known: _Known) -> Product | None:
    """A product with a softmax of a product on one side."""
    flow = known.flow
    a, b = flow.values[var].args
    for weights, values, swapped in ((a, b, False), (b, a, True)):
        inside: list[relax.Var] = []
        softmax = _softmax_of(weights, swapped, inside, flow)
        if softmax is None:
            continue
        first = _scores(softmax.args[0], inside, known)
        side = known.traced(values)
        if first is None or not _narrows(side):
            continue
        guarded = any(flow.op(one) == "relax.isnan" for one in inside)
        second = _Sides(None, side.with_view(side.view.transposed()) if swapped else side, var)
        return _made(second, first, [*reversed(inside), var], known, swapped, guarded)
    return None


def _softmax_of(
    value: relax.Expr, swapped: bool, inside: list[relax.Var], flow: Dataflow
) -> relax.Call | None:
    """The softmax along the last axis that `value` is, or of which it is the transpose where
    `swapped`. Variables passed go into `inside`."""
    axes_left = swapped
    while isinstance(value, relax.Var):
        call = flow.values.get(value)
        if call is None:
            return None
        inside.append(value)
        if flow.op(value) == "relax.nn.softmax":
            last = int(call.attrs.axis) in (-1, len(shape(value)) - 1)
            return call if last and not axes_left else None
        if flow.op(value) == "relax.permute_dims" and axes_left and _swaps_last(call):
            axes_left, value = False, call.args[0]
        elif flow.op(value) == "relax.where" and _never(call):
            value = call.args[2]
        elif flow.op(value) == "relax.where" and (kept := _nan_to_zero(call, flow)) is not None:
            inside.append(call.args[0])
            value = kept
        else:
            return None
    return None


def _never(where: relax.Call) -> bool:
    """True where the condition is a constant that holds nowhere, and x has the result's shape."""
    condition = array(where.args[0])
    same = shape(where.args[2]) == shape(where)
    return condition is not None and not condition.any() and same


def _nan_to_zero(where: relax.Call, flow: Dataflow) -> relax.Expr | None:
    """x of ``where(isnan(x), 0, x)``, else None."""
    condition, zero, x = where.args
    constant = array(zero)
    if flow.op(condition) != "relax.isnan" or constant is None or np.any(constant != 0):
        return None
    return x if flow.values[condition].args[0].same_as(x) else None


def _swaps_last(call: relax.Call) -> bool:
    """True for a transpose of the last two axes."""
    rank = len(shape(call))
    axes = [int(axis) % rank for axis in call.attrs.axes or reversed(range(rank))]
    return axes == [*range(rank - 2), rank - 1, rank - 2]


def _scores(value: relax.Expr, inside: list[relax.Var], known: _Known) -> _Sides | None:
    """The product that gives the scores, with its mask and its scale."""
    mask, scale, flow = None, 1.0, known.flow
    while isinstance(value, relax.Var):
        call = flow.values.get(value)
        if call is None:
            return None
        inside.append(value)
        factor = scalar_of(call) if flow.op(value) in ("relax.multiply", "relax.divide") else None
        if flow.op(value) == MATMUL:
            a, b = (known.traced(one) for one in call.args)
            if not _computed(call) or not (_narrows(a) and _narrows(b)):
                return None
            return _Sides(a, b, value, scale, mask)
        if flow.op(value) == "relax.add" and mask is None and scale == 1:
            sides = [one for one in call.args if _is_product(one, flow)]
            if len(sides) != 1:
                return None
            (inner,) = sides
            other = call.args[1] if call.args[0].same_as(inner) else call.args[0]
            mask = known.traced(other)
            fits = shape(inner) == shape(value) and _suits(mask.view, shape(value))
            if not fits or mask.scale != 1 or dtype(mask.source) != FP32:
                return None
            value = inner
        elif factor is not None and shape(factor[0]) == shape(value):
            scale, value = scale * factor[1], factor[0]
        else:
            return None
    return None


def _is_product(value: relax.Expr, flow: Dataflow) -> bool:
    """True for a product of two computed tensors, scaled or not."""
    while isinstance(value, relax.Var) and flow.op(value) in ("relax.multiply", "relax.divide"):
        factor = scalar_of(flow.values[value])
        if factor is None:
            return False
        value = factor[0]
    return isinstance(value, relax.Var) and flow.op(value) == MATMUL


# ---------------------------------------------------------------- the workload


@dataclass(frozen=True)
class _Sides:
    """Both sides of a product, its variable, its scale and what is added. a: None if it is a
    softmax."""

    a: Traced | None
    b: Traced
    var: relax.Var
    scale: float = 1.0
    added: Traced | None = None


def _narrows(one: Traced) -> bool:
    """True for an operand that can be rounded to what is multiplied: a variable, or a constant
    within its range."""
    constant = array(one.source)
    return constant is None or bool(np.abs(constant).max(initial=0) <= dtypes.FP16.largest)


def _suits(view: View, wanted: tuple[int, ...]) -> bool:
    """True if a view can be broadcast to a shape."""
    try:
        return np.broadcast_shapes(view.shape, wanted) == wanted
    except ValueError:
        return False


def _made(
    second: _Sides,
    first: _Sides | None,
    inside: list[relax.Var],
    known: _Known,
    swapped: bool = False,
    guarded: bool = False,
) -> Product | None:
    """The product whose variables are `inside`, and what only moves or scales its result. None
    where something else reads what is inside."""
    flow, own = known.flow, {*inside}
    for one in inside[:-1]:
        others = one in flow.outputs or one in known.sources
        if others or not own.issuperset(flow.readers[one]):
            return None
    inside, y, factor = _written(inside, known, scales=second.added is None)
    y = y.transposed() if swapped else y
    batch = y.shape[:-2]
    b = second.b.view.broadcast((*batch, *second.b.view.shape[-2:]))
    added = None
    if second.added is not None:
        added = Added(second.added.view.broadcast(y.shape), dtype(second.added.source))
    scale = second.scale * second.b.scale * factor
    if first is None:
        assert second.a is not None
        a = second.a.view.broadcast((*batch, *second.a.view.shape[-2:]))
        workload = ProductWorkload(a, b, y, scale * second.a.scale, added)
        sides: tuple[Traced | None, ...] = (second.a, second.b, second.added)
        return _product_of(workload, (second.var,), sides, inside)
    assert first.a is not None
    query = first.a.view.broadcast((*batch, *first.a.view.shape[-2:]))
    key = first.b.view.broadcast((*batch, *first.b.view.shape[-2:]))
    scores = View.of((*batch, query.shape[-2], key.shape[-1]))
    mask = None
    if first.added is not None:
        mask = Added(first.added.view.broadcast(scores.shape), dtype(first.added.source))
    inner_scale = first.scale * first.a.scale * first.b.scale
    inner = ProductWorkload(query, key, scores, inner_scale, mask)
    workload = ProductWorkload(None, b, y, scale, first=inner, nan_to_zero=guarded)
    sides = (first.a, first.b, first.added, second.b)
    return _product_of(workload, (first.var, second.var), sides, inside)


def _product_of(
    workload: ProductWorkload,
    products: tuple[relax.Var, ...],
    sides: Iterable[Traced | None],
    inside: list[relax.Var],
) -> Product:
    read = [one for one in sides if one is not None]
    before = tuple(var for one in read for var in one.through)
    sources = tuple(one.source for one in read)
    return Product("", workload, products, sources, tuple(inside), before)


def _written(
    inside: list[relax.Var], known: _Known, scales: bool
) -> tuple[list[relax.Var], View, float]:
    """`inside` with what only moves the result behind it, or scales it where `scales`, as far as
    that is a view of the tensor written last; that view; and the scale. What others read ends
    it."""
    flow = known.flow
    behind, factors = [inside[-1]], [1.0]
    while (after := known.after(behind[-1])) is not None:
        factor = 1.0 if flow.op(after) in MOVES else _scaled_by(after, behind[-1], flow)
        if factor is None or (flow.op(after) not in MOVES and not scales):
            break
        behind.append(after)
        factors.append(factor)
    for count in range(len(behind), 1, -1):
        view: View | None = View.of(shape(behind[count - 1]))
        for before, var in zip(behind[count - 2 :: -1], behind[count - 1 : 0 : -1], strict=True):
            view = view and _undone(view, var, shape(before), flow)
        if view is not None:
            return [*inside, *behind[1:count]], view, float(np.prod(factors[:count]))
    return inside, View.of(shape(inside[-1])), 1.0


def _scaled_by(var: relax.Var, before: relax.Expr, flow: Dataflow) -> float | None:
    """The number by which `var` scales `before`; None where it does something else."""
    if flow.op(var) not in ("relax.multiply", "relax.divide") or shape(var) != shape(before):
        return None
    factor = scalar_of(flow.values[var])
    return factor[1] if factor is not None and factor[0].same_as(before) else None


def _undone(view: View, var: relax.Var, before: tuple[int, ...], flow: Dataflow) -> View | None:
    """The view of what an operator read, given that of what it made."""
    if flow.op(var) not in MOVES:
        return view
    if flow.op(var) != "relax.permute_dims":
        return view.reshaped(before)
    rank = len(before)
    axes = flow.values[var].attrs.axes
    order = [int(axis) % rank for axis in axes] if axes is not None else [*reversed(range(rank))]
    return view.permuted([order.index(axis) for axis in range(rank)])


def calls(mod: tvm.IRModule, products: Products) -> Iterator[tuple[relax.Var, Product]]:
    """Every call of a product in a module, with its variable."""
    for binding in bindings(mod):
        if op_name(binding.value) == CALL:
            symbol = str(binding.value.args[0].global_symbol)
            if symbol in products:
                yield binding.var, products[symbol]

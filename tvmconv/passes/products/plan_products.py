"""Decide in which dtypes products read and write, and which kernel computes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from intrinsics.dtypes import FP32
from schedules.conv.signature import Operand
from schedules.products.choose import ProductChoice, choose
from schedules.products.workload import ADDED, MASK, ProductWorkload
from tvmconv.passes.graph import Dataflow
from tvmconv.passes.plan.chooser import Chooser
from tvmconv.passes.plan.magnitudes import Magnitudes
from tvmconv.passes.plan.plan import NOTHING_SEEN, Plan
from tvmconv.passes.plan.readers import read_narrow
from tvmconv.passes.products.find_products import Product, Products, calls
from tvmconv.passes.regions.region import Region


@dataclass(frozen=True)
class PlannedProduct:
    """A product with all that was decided about it.

    scales: powers of two by which operands are multiplied where they are rounded to what is
    multiplied, in their order; the workload's scales undo them.
    """

    product: Product
    choice: ProductChoice
    scales: tuple[float, ...]

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The operands that the kernel reads, in order."""
        return self.choice.workload.signature.operands[:-1]

    @property
    def result(self) -> Operand:
        """The operand that it writes."""
        return self.choice.workload.signature.operands[-1]


#: By the symbol of the call that stands for each.
ProductPlan = Mapping[str, PlannedProduct]

NO_PRODUCTS: ProductPlan = {}


def plan_products(
    mod: tvm.IRModule,
    products: Products,
    found: Mapping[relax.Var, Region],
    planned: Plan,
    chooser: Chooser,
    seen: Mapping[relax.Var, float] = NOTHING_SEEN,
) -> ProductPlan:
    """Decides for every product of `mod`, once its convolutions are planned.

    found: the regions of convolutions as they were found, whose weights tell of magnitudes.
    seen: the largest magnitudes of tensors on the feeds that a build is calibrated with.

    A tensor whose size suits no 16 bits is scaled by a power of two on the way in; a result of such
    a size is written in fp32.
    """
    flow = Dataflow.of(mod)
    regions = {var: one.region for var, one in planned.items()}
    magnitudes = Magnitudes(found, flow, seen)
    plans = {}
    for var, product in calls(mod, products):
        narrow = read_narrow(var, regions, flow, chooser.precision)
        usual = magnitudes.scale(var) == 1
        result = chooser.precision.x if narrow and usual else FP32.name
        named = zip(product.workload.signature, product.reads, strict=False)
        scales = [
            1.0 if operand.name in (MASK, ADDED) else magnitudes.scale(tensor)
            for operand, tensor in named
        ]
        workload = _undone(product, scales)
        precision = replace(chooser.precision, result=result)
        workload = replace(workload, precision=precision)
        choice = choose(workload, chooser.hardware)
        plans[product.symbol] = PlannedProduct(product, choice, tuple(scales))
    return plans


def _undone(product: Product, scales: list[float]) -> ProductWorkload:
    """The workload whose operands are multiplied by those scales."""
    w = product.workload
    if w.first is None:
        return replace(w, scale=w.scale / (scales[0] * scales[1]))
    first = replace(w.first, scale=w.first.scale / (scales[0] * scales[1]))
    return replace(w, first=first, scale=w.scale / scales[-1])


def product_names(planned: ProductPlan) -> dict[ProductChoice, str]:
    """Names of a plan's kernels in the code; equal ones are one kernel."""
    names: dict[ProductChoice, str] = {}
    for one in planned.values():
        names.setdefault(one.choice, f"{one.choice.name}_{len(names)}")
    return names

"""The kernels that only quantise or dequantise a tensor, and the cause of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import relax

from schedules.machine.cost import Machine, memory_cost
from tvmconv.passes.graph import Dataflow, dtype, shape
from tvmconv.passes.plan.plan import Plan
from tvmconv.passes.regions.quantization import EIGHT_BITS
from tvmconv.passes.regions.region import Region
from tvmconv.reports.collect.outline import OutlinedKernel
from tvmconv.reports.data.build import ConversionReport

#: What quantising and dequantising is made of, with what moves elements beside.
STEPS = {
    *("relax.add", "relax.astype", "relax.divide", "relax.maximum", "relax.minimum"),
    *("relax.multiply", "relax.round", "relax.subtract", "relax.nn.pad", "relax.nn.relu"),
    *("relax.permute_dims", "relax.reshape"),
}


def quantising(
    kernels: Sequence[OutlinedKernel],
    plan: Plan,
    flow: Dataflow,
    nodes: Mapping[relax.Var, str],
    inputs: Mapping[relax.Var, str],
    machine: Machine | None,
) -> tuple[ConversionReport, ...]:
    """Returns a report for each of `kernels` that does nothing else, in order.

    flow: the graph, its regions planned. nodes: ONNX nodes by their result's variable. inputs: the
    names of the network's inputs.
    """
    causes = _Causes(plan, flow, nodes, inputs)
    found = []
    for kernel in kernels:
        read = [one for one in kernel.read if math.prod(one[0]) > 1]
        written = [one for one in kernel.written if math.prod(one[0]) > 1]
        if len(read) != 1 or len(written) != 1:
            continue
        if any(flow.op(var) not in STEPS for var in kernel.variables if _large(var)):
            continue
        (of, before), (_, after) = read[0], written[0]
        numbers = before in EIGHT_BITS, after in EIGHT_BITS
        inside = [dtype(var) for var in kernel.variables if _large(var)]
        between = next((one for one in inside if one in EIGHT_BITS), "")
        if not (any(numbers) or between) or (all(numbers) and kernel.variables):
            continue
        what = f"{before} -> {after}"
        if all(numbers):
            what, cause = f"{before}, padded", "padding with a zero point other than 0"
        elif numbers[1]:
            cause = causes.of_quantising(kernel)
        else:
            what = what if numbers[0] else f"{before} -> {between} -> {after}"
            cause = causes.of_floats(kernel, of)
        us = memory_cost(kernel.moved_bytes, machine).us if machine is not None else 0.0
        found.append(ConversionReport(what, of, cause, kernel.moved_bytes, us))
    return tuple(found)


def _large(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType) and math.prod(shape(var)) > 1


class _Causes:
    def __init__(
        self,
        plan: Plan,
        flow: Dataflow,
        nodes: Mapping[relax.Var, str],
        inputs: Mapping[relax.Var, str],
    ) -> None:
        self.plan, self.flow, self.nodes, self.inputs = plan, flow, nodes, inputs
        #: Convolutions by the tensor that they write.
        self.writers = {one.place.buffer: one for one in plan.values()}

    def of_quantising(self, kernel: OutlinedKernel) -> str:
        """Why a tensor is not quantised by whoever writes it."""
        at: relax.Expr = next(
            var for var in reversed(kernel.variables) if dtype(var) in EIGHT_BITS and _large(var)
        )
        while isinstance(at, relax.Var) and at in kernel.variables and self.flow.op(at) in STEPS:
            call = self.flow.values[at]
            if any(isinstance(one, relax.Var) and not _large(one) for one in call.args[1:]):
                return "its scale is computed at run time"
            at = call.args[0]
        if at in self.inputs:
            return f"input {self.inputs[at]!r} is fed as {dtype(at)}"
        if at in self.writers:
            name = self.writers[at].name
            if self.flow.sole_reader(at) is None:
                return f"what {name!r} gives is read as floats, too"
            return f"estimated to take less than in the kernel of {name!r}"
        return f"{self._named(at)} gives floats"

    def of_floats(self, kernel: OutlinedKernel, of: tuple[int, ...]) -> str:
        """Why numbers are read as floats."""
        if not kernel.variables:  # made for a convolution when it was lowered
            names = [
                repr(one.name)
                for one in self.plan.values()
                if one.region.reads_floats and shape(one.region.x) == of
            ]
            return f"{' or '.join(names)} multiplies floats"
        last = kernel.variables[-1]
        waiting, readers = [last], []
        while waiting:
            var = waiting.pop()
            if var in self.flow.outputs:
                return "an output of the network is real numbers"
            for reader in self.flow.readers[var]:
                regions = [one for one in self.plan.values() if _reads(one.region, var)]
                if regions:
                    readers += [f"{one.name!r} {_verb(one.region, var)} floats" for one in regions]
                elif isinstance(self.flow.values[reader], relax.Tuple):
                    waiting.append(reader)
                else:
                    readers.append(f"{self._named(reader)} computes in floats")
        return ", ".join(dict.fromkeys(readers)) or "floats are read"

    def _named(self, var: relax.Expr) -> str:
        """The ONNX node that a variable is the result of, else Relax's operator."""
        if var in self.nodes:
            return repr(self.nodes[var])
        return self.flow.op(var).rpartition(".")[2] if isinstance(var, relax.Var) else "a constant"


def _reads(region: Region, var: relax.Var) -> bool:
    return any(one.same_as(var) for one in region.reads)


def _verb(region: Region, var: relax.Var) -> str:
    return "multiplies" if var.same_as(region.x) else "adds"

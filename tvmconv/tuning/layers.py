"""Records by the layers of a network: the choice of each, and a choice set by hand.

model -> inspect -> the layer's workloads, one for each bucket and phase -> choice, or record
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schedules.choose import Choice, Policy, choose, cost_on
from schedules.configuration import ConfigLike, config_fields, resolve
from schedules.conv.workload import ConvWorkload
from schedules.errors import ConfigError
from schedules.machine.cost import Machine
from schedules.registry import registered
from tvmconv.compiler import build as compiler
from tvmconv.compiler.targets import find_costs, find_hardware
from tvmconv.onnx import model as onnx_model
from tvmconv.records import store as book
from tvmconv.records.store import Record
from tvmconv.reports.data.build import BuildReport


@dataclass(frozen=True)
class LayerChoice:
    """One kernel of a layer: its workload, and the family and configuration of a build."""

    layer: str
    #: Images per run, then `ConvWorkload.to_json`.
    batch: int
    workload: str
    #: The workload and its epilogue in words.
    shape: str
    family: str
    #: The configuration's fields, as `set_record` takes them.
    config: Mapping[str, Any]
    #: "model", "record" or "pinned", as in `schedules.choose.Choice`.
    chosen_by: str
    #: Microseconds, measured if a record decided, else estimated; 0 if unknown.
    us: float

    @classmethod
    def of(cls, layer: str, batch: int, choice: Choice, machine: Machine | None) -> LayerChoice:
        """Returns the row of a choice. machine: estimates the time if no record has it."""
        w, family, config = choice.workload, choice.family, choice.config
        us = choice.cost.us
        if choice.tuned is None:
            us = 0.0 if machine is None else cost_on(machine, w, family, config, choice.hardware).us
        return cls(
            layer,
            batch,
            w.to_json(),
            f"{w}, {w.epilogue}",
            family.name,
            config_fields(config),
            choice.chosen_by,
            us,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, the workload as an object."""
        return {**asdict(self), "workload": json.loads(self.workload)}


def layer_choices(
    model: onnx_model.Model, target: str = "cuda", *, layer: str | None = None, **options: Any
) -> list[LayerChoice]:
    """Returns the kernels of every layer of a network, or of one layer.

    options: those of `inspect`. Raises as `inspect` does, and `ConfigError` for a layer that does
    not exist or has no kernel of its own.
    """
    plan = compiler.inspect(model, target, **options).plan
    hardware, arch = find_hardware(target, plan.arch)
    policy = Policy(
        registered(options.get("families")), records=book.lookup(arch, options.get("records", True))
    )
    machine = find_costs(target, hardware, arch, None).machine
    return [
        LayerChoice.of(name, batch, choose(w, hardware, policy), machine)
        for name, batch, w in _workloads(plan, layer)
    ]


def set_record(
    model: onnx_model.Model,
    layer: str,
    config: ConfigLike,
    target: str = "cuda",
    *,
    records: str | Path | None = None,
    **options: Any,
) -> tuple[Path, list[Record]]:
    """Records the configuration of a layer by hand; returns the file and its new records.

    config: as in `build`'s `configs`; it has to fit every bucket. records: the file to add to, by
    default the user's own. options: those of `inspect`. Raises as `inspect` does, and `ConfigError`
    for a configuration that does not fit, and for a layer that does not exist or has no kernel of
    its own.
    """
    plan = compiler.inspect(model, target, **options, records=False).plan
    hardware, arch = find_hardware(target, plan.arch)
    families = registered(options.get("families"))
    path = Path(records) if records is not None else book.user_file(arch)
    if path.exists():
        book.read(path)  # raises if it holds something else
    made: dict[str, Record] = {}
    for _, _, w in _workloads(plan, layer):
        pinned = resolve(config, w, hardware, families)
        made[w.to_json()] = Record(
            workload=w.to_json(),
            arch=arch,
            family=pinned.family.name,
            family_version=pinned.family.version,
            config=config_fields(pinned.config),
            versions=book.versions(),
            set_by_hand=True,
        )
    for record in made.values():
        book.append(path, record)
    return path, list(made.values())


def _workloads(plan: BuildReport, layer: str | None) -> Iterator[tuple[str, int, ConvWorkload]]:
    """Yields layer, batch and workload of every kernel, the smallest bucket first."""
    reports = (*plan.smaller, plan)
    convs = {conv.name: conv for conv in plan.convs}
    if layer is not None and layer not in convs:
        near = difflib.get_close_matches(layer, convs, n=3, cutoff=0.0)
        raise ConfigError(
            f"there is no convolution {layer!r}",
            hint=f"similar names: {', '.join(near)}" if near else "the network has none",
        )
    if layer is not None and not convs[layer].workloads:
        raise ConfigError(
            f"conv {layer!r} has no kernel that a family computes", note=convs[layer].why_family
        )
    for report in reports:
        for conv in report.convs:
            if layer in (None, conv.name):
                for text in conv.workloads:
                    yield conv.name, report.batch, ConvWorkload.from_json(text)

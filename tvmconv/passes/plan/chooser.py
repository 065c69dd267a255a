"""The choice of a kernel for each convolution of a network: by policy, or pinned by its name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from schedules.choose import Choice, Policy, choose, pin
from schedules.configuration import ConfigLike, resolve
from schedules.conv.precision import FP16, Precision
from schedules.conv.workload import ConvWorkload
from schedules.errors import ConfigError, FamilyError
from schedules.family import Reject
from schedules.machine.hardware import Hardware
from schedules.registry import registered

#: Activations between layers, as a person may ask for them: None for what costs least.
LayoutName = Literal["packed"]
LAYOUTS: tuple[LayoutName, ...] = ("packed",)


@dataclass(frozen=True)
class Chooser:
    """Chooses the kernels of one network, on one machine and in one precision."""

    hardware: Hardware
    policy: Policy = field(default_factory=Policy)
    #: The operands and results of convolutions; a result that no reader takes so stays fp32.
    precision: Precision = FP16
    #: Configurations by the layer's name, as `schedules.configuration.resolve` takes them. A pin
    #: comes before records and estimates.
    pins: Mapping[str, ConfigLike] = field(default_factory=dict)
    layout: LayoutName | None = None

    def require_layers(self, names: Iterable[str]) -> None:
        """Raises `ConfigError` for a pin on a layer that is not among `names`."""
        there = list(names)
        for name in self.pins:
            if name not in there:
                near = difflib.get_close_matches(name, there, n=3, cutoff=0.0)
                raise ConfigError(
                    f"there is no convolution {name!r} to give a configuration",
                    hint=f"similar names: {', '.join(near)}" if near else "the network has none",
                )

    def choose(self, name: str, w: ConvWorkload, about: str = "") -> Choice:
        """The choice for a kernel of layer `name`. about: something to note beside the reasons.

        Raises `ConfigError` for a pin that does not fit and `FamilyError` where no family computes
        `w`, both with the layer's name.
        """
        return self._named(name, w, self.policy, about)

    def estimated(self, name: str, w: ConvWorkload) -> Choice:
        """The same without records. Raises as `choose`."""
        return self._named(name, w, replace(self.policy, records=None))

    def cost(self, name: str, w: ConvWorkload) -> float:
        """Estimated microseconds for a kernel of layer `name`; infinite if no family takes it."""
        try:
            return self.estimated(name, w).cost.us
        except (ConfigError, FamilyError):
            return math.inf

    def _named(self, name: str, w: ConvWorkload, policy: Policy, about: str = "") -> Choice:
        try:
            if name not in self.pins:
                return choose(w, self.hardware, policy)
            pinned = resolve(self.pins[name], w, self.hardware, policy.families)
        except ConfigError as error:
            what = f"conv {name!r}: {error.what}"
            raise ConfigError(what, note=error.note, hint=error.hint) from None
        except FamilyError as error:
            raise self._none(name, w, error, about) from None
        return pin(choose(w, self.hardware, replace(policy, records=None)), pinned, policy.estimate)

    def _none(self, name: str, w: ConvWorkload, error: FamilyError, about: str) -> FamilyError:
        """No family computes the layer: why, and which of the others would."""
        able = [
            one.name
            for one in registered()
            if one not in self.policy.families
            and not isinstance(one.match(w, self.hardware), Reject)
        ]
        return FamilyError(
            f"conv {name!r}, {w}: no family computes it",
            note="; ".join(filter(None, (error.note, about))),
            hint=f"add one of {', '.join(able)} to the families" if able else "",
        )

"""The registered families of schedules, in order of preference: those that ship, and yours.

schedules.register(MyFamily())                  # preferred if costs are equal
schedules.register(MyFamily(), replace=True)    # again, as in a notebook's cell
"""

from __future__ import annotations

from collections.abc import Iterable

from schedules.errors import FamilyError
from schedules.families.depthwise.family import DepthwiseFamily
from schedules.families.depthwise_dp4a.family import DepthwiseDp4aFamily
from schedules.families.depthwise_projection.family import DepthwiseProjectionFamily
from schedules.families.direct.family import DirectFamily
from schedules.families.few_channels.family import FewChannelsFamily
from schedules.families.mma_sync.family import MmaSyncFamily
from schedules.families.wgmma.family import WgmmaFamily
from schedules.families.wmma.family import WmmaFamily
from schedules.family import Family

#: The families that ship, in order of preference. The last one matches everything but a pool.
FAMILIES: tuple[Family, ...] = (
    FewChannelsFamily(),
    WgmmaFamily(),
    MmaSyncFamily(),
    WmmaFamily("wmma_packed", packed=True),
    WmmaFamily("wmma_nhwc", packed=False),
    DepthwiseDp4aFamily(),
    DepthwiseFamily(),
    DepthwiseProjectionFamily(),
    DirectFamily(),
)

_registered = FAMILIES


def registered(names: Iterable[str] | None = None) -> tuple[Family, ...]:
    """Returns the registered families in order of preference, for equal costs.

    names: only these, in the registry's order. Raises `FamilyError` for an unknown name and for an
    empty list.
    """
    if names is None:
        return _registered
    names = (names,) if isinstance(names, str) else names
    wanted = {family(name) for name in names}
    if not wanted:
        raise FamilyError("the list of families is empty", hint=f"one or more of {_names()}")
    return tuple(one for one in _registered if one in wanted)


def family(name: str) -> Family:
    """Returns the registered family of that name. Raises `FamilyError`, which lists the names."""
    for one in _registered:
        if one.name == name:
            return one
    raise FamilyError(f"there is no family {name!r}", hint=f"one of {_names()}")


def register(one: Family, *, before: str | None = None, replace: bool = False) -> Family:
    """Adds a family, for builds and tuning in this process; returns it.

    It is chosen if its estimated cost is the least. Records take precedence: for a workload with a
    record of another family, tune with this family named, pin the layer, or name the families of
    the build.

    before: the name of the family to precede in the order of preference; by default the first.
    replace: a family of that name is replaced, in its place unless `before` names another.

    Raises `FamilyError` for a name that is taken, an unknown `before`, and an object that is not a
    `Family`.
    """
    global _registered
    if not isinstance(one, Family):
        raise FamilyError(
            f"{one!r} is not a family",
            hint="register an instance of a subclass of schedules.Family",
        )
    names = [other.name for other in _registered]
    if one.name in names and not replace:
        raise FamilyError(
            f"there is already a family {one.name!r}",
            hint="register(family, replace=True) replaces it; or choose another name",
        )
    at = names.index(family(before).name) if before is not None else 0
    if one.name in names and before in (None, one.name):
        at = names.index(one.name)
    kept = [other for other in _registered[:at] if other.name != one.name]
    rest = [other for other in _registered[at:] if other.name != one.name]
    _registered = (*kept, one, *rest)
    return one


def unregister(name: str) -> Family:
    """Removes and returns the family of that name. Raises `FamilyError` for an unknown name."""
    global _registered
    gone = family(name)
    _registered = tuple(one for one in _registered if one is not gone)
    return gone


def _names() -> str:
    return ", ".join(one.name for one in _registered)

"""Configurations as JSON, and the family that a given one belongs to.

{"family": "wmma_nhwc", "config": {"warps_m": 2, "fragments_k": 4}}     # fields left out: the
{"warps_m": 2, "fragments_k": 4}                                        # class's own defaults
WmmaConfig(warps_m=2, fragments_k=4)
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from schedules.choose import Pinned
from schedules.conv.workload import ConvWorkload
from schedules.errors import ConfigError
from schedules.family import Family, Reject
from schedules.machine.hardware import Hardware

#: Types that values are checked against; fields with another annotation take any value.
PLAIN = (bool, int, str, tuple)
#: A configuration, its fields, or JSON text of them; see the module.
ConfigLike = Any


def config_fields(config: Any) -> dict[str, Any]:
    """Returns a configuration's fields as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def make_config(one: Family, w: ConvWorkload, hardware: Hardware, fields: Mapping[str, Any]) -> Any:
    """Returns the configuration with these fields, checked.

    Raises ``TypeError`` for fields of another name or type, `ConfigError` if it does not fit,
    ``ValueError`` if the family declines.
    """
    return _checked(one, w, hardware, _construct(one.config_type, fields))


def _construct(config_type: type, fields: Mapping[str, Any]) -> Any:
    """Returns a configuration; lists, as JSON has them, become tuples."""
    if unknown := _unknown(config_type, fields):
        raise TypeError(f"{config_type.__name__} has no field {', '.join(unknown)}")
    hints = typing.get_type_hints(config_type)
    plain = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    for name, value in plain.items():
        hint = hints.get(name, object)
        kind = typing.get_origin(hint) or hint
        if kind in PLAIN and type(value) is not kind:
            raise TypeError(f"{name} can't be {value!r}")
    return config_type(**plain)


def _unknown(config_type: type, fields: Mapping[str, Any]) -> list[str]:
    """Returns the names among `fields` that the configuration does not have."""
    names = {field.name for field in dataclasses.fields(config_type)}
    return [name for name in fields if name not in names]


def _checked(one: Family, w: ConvWorkload, hardware: Hardware, config: Any) -> Any:
    answer = one.match(w, hardware)
    if isinstance(answer, Reject):
        raise ValueError(answer.reason)
    one.check(w, config, hardware)
    return config


def parse(given: ConfigLike) -> tuple[str | None, Any]:
    """Returns the family's name, or None, and a configuration or a mapping of fields.

    Raises `ConfigError` for text that is not a JSON object and for anything else that is not a
    configuration.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConfigError(f"{given!r} is not JSON", note=str(error), hint=HINT) from None
    if isinstance(given, Mapping) and set(given) == {"family", "config"}:
        name, inner = given["family"], given["config"]
    else:
        name, inner = None, given
    config = isinstance(inner, Mapping) or (
        dataclasses.is_dataclass(inner) and not isinstance(inner, type)
    )
    if not config or not isinstance(name, str | None):
        raise ConfigError(f"{given!r} is not a configuration", hint=HINT)
    return name, inner


HINT = 'write {"family": "wmma_nhwc", "config": {"warps_m": 2}}, or the fields alone'


def resolve(
    given: ConfigLike, w: ConvWorkload, hardware: Hardware, families: Sequence[Family]
) -> Pinned:
    """Returns the first of `families` that computes `w` with this configuration.

    Raises `ConfigError` with each family's reason if none does, and if fields without a family's
    name fit configurations of several types.
    """
    name, inner = parse(given)
    found: list[Pinned] = []
    reasons: dict[str, str] = {}
    for one in families:
        if name is not None and one.name != name:
            continue
        if name is None and isinstance(inner, Mapping) and _unknown(one.config_type, inner):
            continue
        try:
            found.append(Pinned(one, _resolved(one, w, hardware, inner)))
        except ConfigError as error:
            reasons[one.name] = error.note or error.what
        except (TypeError, ValueError) as error:
            reasons[one.name] = str(error)
    types = {type(one.config) for one in found}
    if len(types) > 1:
        names = ", ".join(one.family.name for one in found)
        raise ConfigError(f"{given} fits several families: {names}", hint=f"add the family: {HINT}")
    if found:
        return found[0]
    if not reasons:
        names = ", ".join(one.name for one in families)
        what = f"no family {name!r}" if name else f"no family with configurations like {given}"
        raise ConfigError(f"there is {what}", hint=f"families: {names}")
    raise ConfigError(
        f"the configuration {given} does not fit {w} on {hardware.name}",
        note="; ".join(f"{family}: {reason}" for family, reason in reasons.items()),
        hint="`tvmconv records show` prints configurations that fit",
    )


def _resolved(one: Family, w: ConvWorkload, hardware: Hardware, inner: Any) -> Any:
    if isinstance(inner, Mapping):
        return make_config(one, w, hardware, inner)
    if not isinstance(inner, one.config_type):
        raise TypeError(f"its configurations are {one.config_type.__name__}")
    return _checked(one, w, hardware, inner)

"""The pointwise functions that can end an epilogue: one table, one formula each.

A formula is written over a namespace of operations. With TVM expressions (`compute.TvmMath`) it is
compiled into kernels. In NumPy it is compared with functions found in a graph. Parameters and
formulas are ONNX's: https://onnx.ai/onnx/operators. Kernels compute them in fp32, and compare so
that NaN is kept; maximum and minimum would hide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np


class NumpyMath:
    """The operations of formulas, on float64 arrays."""

    tanh, select = staticmethod(np.tanh), staticmethod(np.where)
    erf, real = staticmethod(np.vectorize(math.erf)), staticmethod(float)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        """Returns 1 / (1 + exp(-x))."""
        return 1 / (1 + np.exp(-x))


def _clip(m: Any, x: Any, low: Any, high: Any) -> Any:
    x = m.select(x < low, low, x)
    return m.select(x > high, high, x)


def _leaky(m: Any, x: Any, alpha: Any) -> Any:
    return m.select(x < m.real(0), x * alpha, x)


def _hard_sigmoid(m: Any, x: Any, alpha: Any, beta: Any) -> Any:
    return _clip(m, x * alpha + beta, m.real(0), m.real(1))


def _hard_swish(m: Any, x: Any) -> Any:
    return x * _hard_sigmoid(m, x, m.real(1 / 6), m.real(0.5))


def _gelu(m: Any, x: Any) -> Any:
    return x * m.real(0.5) * (m.real(1) + m.erf(x * m.real(math.sqrt(0.5))))


#: Beyond the range of fp16, where a bounded function has reached its bounds.
FAR = 1e9
#: Decimal places of a scale and a shift that are found: least squares leave an error behind these.
DIGITS = 12
#: Points up to this tell scale and shift of a function.
NEAR = 8.0


@dataclass(frozen=True)
class Formula:
    """One function: ``apply(m, x, *parameters)``, over the operations `m`.

    ``fit`` reads the parameters off a function f that is known to be of this kind.
    """

    apply: Callable[..., Any]
    parameters: tuple[str, ...] = ()
    fit: Callable[[Callable[[float], float]], tuple[float, ...]] = lambda f: ()


def _finite(value: float) -> float:
    """Returns a bound within fp32: a clip with one bound has the largest number as the other."""
    most = float(np.finfo(np.float32).max)
    return float(np.clip(value, -most, most))


#: By kind. "prelu" takes its slope from a tensor with one for each channel.
FORMULAS = {
    "none": Formula(lambda m, x: x),
    "relu": Formula(lambda m, x: m.select(x < m.real(0), m.real(0), x)),
    "clip": Formula(_clip, ("low", "high"), lambda f: (_finite(f(-np.inf)), _finite(f(np.inf)))),
    "leaky_relu": Formula(_leaky, ("alpha",), lambda f: (-f(-1.0),)),
    "prelu": Formula(_leaky),
    "sigmoid": Formula(lambda m, x: m.sigmoid(x)),
    "hard_sigmoid": Formula(
        _hard_sigmoid, ("alpha", "beta"), lambda f: ((f(0.125) - f(-0.125)) * 4, f(0.0))
    ),
    "hard_swish": Formula(_hard_swish),
    "silu": Formula(lambda m, x: x * m.sigmoid(x)),
    "tanh": Formula(lambda m, x: m.tanh(x)),
    "gelu": Formula(_gelu),
}


#: Kinds with f(s * x) = s * f(x) for s > 0.
HOMOGENEOUS = ("none", "relu", "leaky_relu", "prelu")


@dataclass(frozen=True)
class Activation:
    """``scale * f(x) + shift``, f a function of `FORMULAS`.

    Raises ``ValueError`` for an unknown kind or other parameters.
    """

    kind: str = "none"
    parameters: tuple[float, ...] = ()
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        formula = FORMULAS.get(self.kind)
        if formula is None:
            raise ValueError(f"activation {self.kind!r} is not one of {', '.join(FORMULAS)}")
        if len(self.parameters) != len(formula.parameters):
            named = ", ".join(formula.parameters) or "none"
            raise ValueError(f"{self.kind} takes {named}, not {self.parameters}")

    def __str__(self) -> str:
        listed = ", ".join(f"{value:g}" for value in self.parameters)
        name = f"{self.kind}({listed})" if listed else self.kind
        scale = f" * {self.scale:g}" if self.scale != 1 else ""
        return name + scale + (f" {self.shift:+g}" if self.shift else "")

    @property
    def affine(self) -> bool:
        """True if there is a scale or a shift."""
        return (self.scale, self.shift) != (1.0, 0.0)

    @property
    def homogeneous(self) -> bool:
        """True if a positive factor of x is one of the result."""
        return self.kind in HOMOGENEOUS and self.shift == 0

    @property
    def has_slopes(self) -> bool:
        """True if it has a slope for each channel: a "prelu"."""
        return self.kind == "prelu"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high) if it does nothing but limit values to them, else None."""
        if self.affine:
            return None
        if self.kind == "clip":
            return self.parameters[0], self.parameters[1]
        return (0.0, _finite(np.inf)) if self.kind == "relu" else None

    def apply(self, m: Any, x: Any, slope: Any = None) -> Any:
        """Returns the function of x over the operations `m`. slope: the channel's, of a "prelu"."""
        parameters = [m.real(value) for value in self.parameters]
        y = FORMULAS[self.kind].apply(m, x, *parameters, *([slope] if self.has_slopes else []))
        return y * m.real(self.scale) + m.real(self.shift) if self.affine else y

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values, without scale and shift if it has none."""
        fields: dict[str, Any] = {"kind": self.kind, "parameters": list(self.parameters)}
        return fields | ({"scale": self.scale, "shift": self.shift} if self.affine else {})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Activation:
        """Returns the activation with those fields. Raises as the constructor does."""
        return cls(**{**fields, "parameters": tuple(fields["parameters"])})

    def numpy(self, x: Any) -> Any:
        """Returns the function of a float64 array."""
        return self.apply(NumpyMath, x)


IDENTITY = Activation()

#: Points at which two functions are compared: around zero, and to beyond the range of fp16. The
#: last ones are in steps.
STEPS = 129
PROBES = np.concatenate(
    [sign * np.geomspace(1e-4, FAR, 120) for sign in (-1, 1)] + [np.linspace(-NEAR, NEAR, STEPS)]
)


def recognise(f: Callable[[Any], Any]) -> Activation | None:
    """Returns the activation that equals the function `f` of float64 arrays, or None.

    It does not matter how `f` is written: it is compared at `PROBES`, to 1e-5 of the value or of 1.
    """
    with np.errstate(all="ignore"):
        y = np.broadcast_to(f(PROBES), PROBES.shape)
        for candidate in chain(_plain(f), _affine(f, y)):
            expected = np.broadcast_to(candidate.numpy(PROBES), PROBES.shape)
            if np.allclose(y, expected, rtol=1e-5, atol=1e-6, equal_nan=False):
                return candidate
    return None


def _plain(f: Callable[[Any], Any]) -> Iterator[Activation]:
    """One of each kind, with the parameters that f has if it is of that kind."""
    for kind, formula in FORMULAS.items():
        parameters = tuple(formula.fit(lambda x: float(f(np.float64(x)))))
        # A line that does not rise would leave nothing of the convolution in its kernel.
        if kind != "prelu" and (kind != "hard_sigmoid" or parameters[0]):
            yield Activation(kind, parameters)


def _affine(f: Callable[[Any], Any], y: Any) -> Iterator[Activation]:
    """One of each kind with a scale and a shift. y: f at `PROBES`."""
    near = np.abs(PROBES) <= NEAR
    if not np.isfinite(y).all():
        return
    for kind, formula in FORMULAS.items():
        if not formula.parameters and kind not in ("none", "prelu"):
            values = Activation(kind).numpy(PROBES[near])
            (scale, shift), *_ = np.linalg.lstsq(
                np.stack([values, np.ones_like(values)], axis=1), y[near], rcond=None
            )
            scale, shift = (round(float(one), DIGITS) for one in (scale, shift))
            if scale:
                yield Activation(kind, (), scale, shift)
    # A line between two bounds: where it is steepest.
    low, high = (float(f(np.float64(x))) for x in (-np.inf, np.inf))
    x, values = PROBES[-STEPS:], y[-STEPS:]
    slopes = np.diff(values) / np.diff(x)
    at = int(np.abs(slopes).argmax())
    slope, shift = float(slopes[at]), float(values[at] - slopes[at] * x[at])
    if np.isfinite([low, high]).all() and slope:
        bounds = sorted(((low - shift) / slope, (high - shift) / slope))
        yield Activation("clip", tuple(bounds), slope, shift)

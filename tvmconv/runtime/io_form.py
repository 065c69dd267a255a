"""Dtype and layout of a network's inputs and outputs, if they differ from the model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.dtypes import FP16, FP32, INT8, UINT8
from tvmconv.errors import TvmconvError
from tvmconv.specs import TensorSpec, as_fed, is_float

#: Of inputs alone: numbers that a quantised model has, or whole real numbers.
EIGHT_BITS = (INT8.name, UINT8.name)
DTYPES = (FP32.name, FP16.name, *EIGHT_BITS)
LAYOUTS = ("NCHW", "NHWC")
#: permute_dims(NCHW, TO_NHWC) is NHWC, and back.
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class IoForm:
    """Dtype and layout that a build was asked for; None leaves them as in the model."""

    #: For every input and output of floating point, one of `DTYPES`; others keep theirs, and
    #: outputs do where it is one of `EIGHT_BITS`.
    dtype: str | None = None
    #: For every input and output of floating point with four dimensions, one of `LAYOUTS`; the
    #: model has NCHW.
    layout: str | None = None

    def __post_init__(self) -> None:
        for name, given, known in (
            ("io_dtype", self.dtype, DTYPES),
            ("io_layout", self.layout, LAYOUTS),
        ):
            if given is not None and given not in known:
                raise TvmconvError(
                    f"there is no {name} {given!r}",
                    hint=f"one of {', '.join(known)}; left out, it is the model's",
                )

    @property
    def eight_bits(self) -> bool:
        """True if inputs are fed as 8-bit numbers."""
        return self.dtype in EIGHT_BITS

    def inputs(
        self, specs: Iterable[TensorSpec], numbers: Mapping[str, tuple[float, int]]
    ) -> tuple[TensorSpec, ...]:
        """Converts specs of the model's inputs to this form.

        numbers: scale and zero point of those that are fed as 8-bit numbers, by name.
        """
        dtype = self.dtype
        return tuple(
            replace(self._of(spec, dtype), scale=scale, zero_point=zero)
            for spec in specs
            for scale, zero in (numbers.get(spec.name, (None, 0)),)
        )

    def outputs(self, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Converts specs of the model's outputs to this form."""
        return tuple(self._of(spec, None if self.eight_bits else self.dtype) for spec in specs)

    def _of(self, spec: TensorSpec, dtype: str | None) -> TensorSpec:
        if not is_float(spec.dtype):
            return spec
        spec = replace(spec, dtype=dtype or spec.dtype)
        if self.layout != "NHWC" or len(spec.shape) != 4:
            return spec
        return replace(spec, shape=tuple(spec.shape[axis] for axis in TO_NHWC), layout="NHWC")


def model_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a network's input or output in the model's layout."""
    return tuple(spec.shape[axis] for axis in TO_NCHW) if spec.layout == "NHWC" else spec.shape


def arranged(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Transposes an array of the model to the layout of `spec`; its dtype stays."""
    return array.transpose(TO_NHWC) if spec.layout == "NHWC" else array


def feeds_from_model(
    specs: Iterable[TensorSpec], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Converts feeds of the model to those of a network with the inputs `specs`."""
    return {spec.name: as_fed(spec, arranged(spec, feeds[spec.name])) for spec in specs}


def feeds_to_model(
    specs: Iterable[TensorSpec], feeds: Mapping[str, NDArray[Any]], model: Iterable[TensorSpec]
) -> dict[str, NDArray[Any]]:
    """Converts feeds of a network with the inputs `specs` to those of the model.

    model: the model's specs of the same inputs. 8-bit numbers become (number - zero point) * scale.
    """
    dtypes = {spec.name: spec.dtype for spec in model}
    return {
        spec.name: np.ascontiguousarray(_real(spec, _back(spec, array)), dtypes[spec.name])
        for spec in specs
        for array in (feeds[spec.name],)
    }


def _real(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """The real numbers that those of a feed stand for."""
    if spec.scale is None:
        return array
    return (array.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)


def _back(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `arranged`."""
    return array.transpose(TO_NCHW) if spec.layout == "NHWC" else array

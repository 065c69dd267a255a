"""Reads the bytes of an ONNX model: a file, the files beside it, or memory."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import external_data_helper, helper

from tvmconv.errors import ModelError, first_line

#: The most bytes of a serialized proto, which the checker and onnxruntime take.
MAX_BYTES = 2**31 - 1


def content(model: str | Path | bytes) -> tuple[bytes, str]:
    """Returns the bytes of a model and its name for errors. Raises `ModelError`."""
    if isinstance(model, bytes):
        if not model:
            raise ModelError("the ONNX model is empty: 0 bytes", hint="was it read to its end?")
        return model, f"what was given ({len(model)} bytes)"
    if not isinstance(model, str | Path):
        raise ModelError(
            f"a model can't be a {type(model).__name__}",
            hint="give a path, the bytes of an ONNX file, or an onnx.ModelProto",
        )
    path = Path(model)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ModelError(f"{path} can't be read", note=str(error)) from error
    if not data:
        raise ModelError(f"{path} is empty: 0 bytes", hint="was the download interrupted?")
    return data, str(path)


def load_external(proto: onnx.ModelProto, path: Path | None) -> None:
    """Loads tensors that are in files beside the model into it. Raises `ModelError`."""
    external = [
        tensor
        for tensor in external_data_helper._get_all_tensors(proto)
        if external_data_helper.uses_external_data(tensor)
    ]
    if not external:
        return
    if path is None:
        raise ModelError(
            f"the model keeps {len(external)} of its tensors in other files",
            note=f"such as {external[0].name!r} in {_location(external[0])!r}",
            hint="give the path of the model, beside which those files lie",
        )
    total = sum(math.prod(t.dims) * _item_bytes(t.data_type) for t in external)
    if total > MAX_BYTES:
        raise _too_large(total)  # before reading it all
    for tensor in external:
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # an OSError, a ValidationError, or a ValueError
            raise ModelError(
                f"tensor {tensor.name!r} can't be read from {_location(tensor)!r}",
                note=first_line(error),
                hint=f"that file has to lie beside {path.name}, where it was saved",
            ) from error


def _location(tensor: onnx.TensorProto) -> str:
    return next((one.value for one in tensor.external_data if one.key == "location"), "")


def _item_bytes(data_type: int) -> int:
    try:
        return helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except KeyError:  # an unknown type, which the checker reports
        return 0


def check_size(proto: onnx.ModelProto) -> None:
    """Raises `ModelError` for a proto that is too large to be serialized."""
    if (size := proto.ByteSize()) > MAX_BYTES:
        raise _too_large(size)


def _too_large(size: int) -> ModelError:
    return ModelError(
        f"the model is too large: {size / 2**30:.1f} GiB, its tensors included",
        note="onnxruntime, which simplifies it, takes less than 2 GiB at once",
        hint="split it, for example with onnx.utils.extract_model",
    )

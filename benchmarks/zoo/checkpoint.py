"""Reads weights from a PyTorch checkpoint, without torch and without running its code.

A checkpoint is a pickle, which may call any function by name. This reader knows a few names, and
replaces them by functions that only keep their arguments. Everything else is refused.

It reads both forms of `torch.save`: a zip archive (``NAME/data.pkl``, and a file in ``NAME/data/``
for each storage), and the form before 1.6 (three pickles of facts, the tensors' pickle, the
storages' keys, then for each its length and its bytes).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmconv.errors import CheckpointError, first_line

#: First number in the old form.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}


def read_checkpoint(source: Path | bytes) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a checkpoint, a flat dictionary from names to tensors, in
    order.

    Raises `CheckpointError` for a file that is damaged or not a checkpoint, for anything but
    tensors, and for tensors with gaps or overlaps, or that reach past their storage.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        read = _read_zip if zipfile.is_zipfile(io.BytesIO(data)) else _read_legacy
        return read(data)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise CheckpointError(
            "this is not a PyTorch checkpoint, or it is damaged",
            note=f"{type(error).__name__}: {first_line(error)}",
            hint="give a dictionary of tensors as torch.save wrote it",
        ) from error


@dataclass(frozen=True)
class _Storage:
    """A sequence of numbers that is not read yet."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage as the checkpoint gives it, unchecked."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Returns the tensor, copied from its storage's ``numbers``.

        Its axes may lie in any order, but without gaps or overlaps.
        """
        size = math.prod(self.shape)
        if min(self.shape, default=0) < 0 or not 0 <= self.offset <= len(numbers) - size:
            raise CheckpointError("a tensor reaches past its storage", note=str(self))
        outer_first = sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis])
        step = 1
        for axis in reversed(outer_first):
            if size and self.shape[axis] > 1 and self.strides[axis] != step:
                raise CheckpointError("a tensor has gaps or overlaps", note=str(self))
            step *= self.shape[axis]
        lying = numbers[self.offset : self.offset + size]
        lying = lying.reshape([self.shape[axis] for axis in outer_first])
        return lying.transpose(np.argsort(outer_first)).copy()


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """Replaces torch._utils._rebuild_tensor_v2; ignores hooks and gradients."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


#: The names that a checkpoint may use, and their replacements, which do nothing but hold data.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    **{("torch", name): np.dtype(code) for name, code in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows `_KNOWN`, and refuses every other name before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise CheckpointError(
                f"the checkpoint asks for '{module}.{name}', which is not a tensor",
                note="a pickle may run any code, so this one was not read any further",
                hint="save the tensors alone: torch.save(model.state_dict(), path)",
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count, *_view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(count, int):
            raise CheckpointError("the checkpoint refers to something that is not a storage")
        return _Storage(str(key), dtype, count)


def _unpickle(stream: io.BytesIO) -> Any:
    """Returns the next pickle of a stream."""
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        # The unpickler's memo grows to the largest number in the pickle.
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(stream.getbuffer()):
            raise CheckpointError(
                "the checkpoint is made to exhaust memory",
                note=f"it remembers an object under the number {argument}",
            )
    stream.seek(start)
    return _Unpickler(stream).load()


def _read_legacy(data: bytes) -> dict[str, NDArray[Any]]:
    stream = io.BytesIO(data)
    if _unpickle(stream) != _MAGIC or _unpickle(stream) != _PROTOCOL:
        raise CheckpointError("this is not a PyTorch checkpoint", note="its first number is wrong")
    if not _unpickle(stream)["little_endian"]:
        raise CheckpointError("the checkpoint was written on a big-endian machine")
    tensors = _tensors(_unpickle(stream))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {}
    for key in _unpickle(stream):
        storage = storages[key]
        (count,) = struct.unpack("<q", stream.read(8))
        if count != storage.count:
            raise CheckpointError(f"storage {key} has {count} numbers, not {storage.count}")
        numbers[key] = _numbers(storage, stream.read(count * storage.dtype.itemsize))
    return _filled(tensors, lambda storage: numbers[storage.key])


def _read_zip(data: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder")
            if order != b"little":
                raise CheckpointError("the checkpoint was written on a big-endian machine")
        tensors = _tensors(_unpickle(io.BytesIO(archive.read(pickled))))

        def read(storage: _Storage) -> NDArray[Any]:
            return _numbers(storage, archive.read(f"{folder}data/{storage.key}"))

        return _filled(tensors, read)


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    """Returns what was unpickled, checked to be names and tensors."""
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"the checkpoint is not a dictionary of tensors but a {type(loaded).__name__}"
        )
    for name, value in dict.items(loaded):
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(
                f"entry {name!r} of the checkpoint is not a tensor but a {type(value).__name__}",
                hint="save the tensors alone: torch.save(model.state_dict(), path)",
            )
    return dict(dict.items(loaded))


def _filled(
    tensors: Mapping[str, _Tensor], read: Callable[[_Storage], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    return {name: tensor.of(read(tensor.storage)) for name, tensor in tensors.items()}


def _numbers(storage: _Storage, data: bytes) -> NDArray[Any]:
    if len(data) != storage.count * storage.dtype.itemsize:
        raise CheckpointError(f"storage {storage.key} is cut off, at {len(data)} bytes")
    return np.frombuffer(data, storage.dtype)

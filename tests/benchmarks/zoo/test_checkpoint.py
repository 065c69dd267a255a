"""Checkpoints give their tensors, and get to do nothing else."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.zoo import checkpoint
from benchmarks.zoo.checkpoint import read_checkpoint
from tvmconv.errors import CheckpointError


def _rebuild_tensor_v2(*arguments: object) -> None:
    """Named as torch's, so that pickles written here name it."""


class FloatStorage:
    pass


class HalfStorage:
    pass


class Storage:
    """What torch's pickler writes as a persistent id."""

    def __init__(self, key: str, numbers: np.ndarray, count: int | None = None) -> None:
        self.key, self.numbers = key, numbers
        self.kind = {"float32": FloatStorage, "float16": HalfStorage}[numbers.dtype.name]
        self.count = numbers.size if count is None else count


class Tensor:
    """Pickles as a tensor of torch's does."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, self.arguments


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of torch's names, which pickling looks for, and reading must not."""
    for module, members in {
        "torch": (FloatStorage, HalfStorage),
        "torch._utils": (_rebuild_tensor_v2,),
    }.items():
        made = types.ModuleType(module)
        for member in members:
            monkeypatch.setattr(member, "__module__", module)
            setattr(made, member.__name__, member)
        monkeypatch.setitem(sys.modules, module, made)


def pickled(what: object) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            if isinstance(obj, Storage):
                return ("storage", obj.kind, obj.key, "cpu", obj.count)
            return None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(what)
    return stream.getvalue()


def legacy(what: object, *storages: Storage, order: str = "little") -> bytes:
    """The form of torch before 1.6, byte for byte."""
    facts = {"protocol_version": 1001, "little_endian": order == "little", "type_sizes": {}}
    parts = [pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled(facts), pickled(what)]
    parts.append(pickled([storage.key for storage in storages]))
    for storage in storages:
        parts += [struct.pack("<q", storage.count), storage.numbers.tobytes()]
    return b"".join(parts)


def zipped(what: object, *storages: Storage, order: str = "little") -> bytes:
    """The form of torch since."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(what))
        archive.writestr("archive/byteorder", order)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.numbers.tobytes())
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


FORMS = pytest.mark.parametrize("form", [legacy, zipped], ids=lambda form: form.__name__)
NUMBERS = np.arange(24, dtype=np.float32)


# --- what is read ---------------------------------------------------------------------------
@FORMS
def test_tensors_are_read(form, tmp_path: Path) -> None:
    first, second = Storage("7", NUMBERS), Storage("8", np.arange(3, dtype=np.float16))
    state = OrderedDict(
        whole=Tensor(first, 0, (2, 3, 4), (12, 4, 1)),
        part=Tensor(first, 5, (2, 2), (2, 1)),
        permuted=Tensor(first, 0, (4, 2, 3), (1, 12, 4)),
        halves=Tensor(second, 0, (3, 1), (1, 77)),
        scalar=Tensor(first, 9, (), ()),
        empty=Tensor(first, 24, (0, 2), (2, 1)),
    )
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(form(state, first, second))
    read = read_checkpoint(path)
    expected = {
        "whole": NUMBERS.reshape(2, 3, 4),
        "part": NUMBERS[5:9].reshape(2, 2),
        "permuted": NUMBERS.reshape(2, 3, 4).transpose(2, 0, 1),
        "halves": np.arange(3, dtype=np.float16).reshape(3, 1),
        "scalar": np.float32(9),
        "empty": np.empty((0, 2), np.float32),
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, strict=name != "scalar")
        assert read[name].flags.c_contiguous
        assert read[name].flags.writeable


# --- what is refused ------------------------------------------------------------------------
@FORMS
@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch '{}'"), (eval, "open('{}', 'w')"), (os.mkdir, "{}"), (np.dtype, "f4")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_code_is_refused_and_does_not_run(form, function, argument: str, tmp_path: Path) -> None:
    path = tmp_path / "made by the pickle"
    call = Call(function, argument.format(path))
    with pytest.raises(CheckpointError, match="which is not a tensor"):
        read_checkpoint(form({"weight": call}))
    assert not path.exists()
    if function is not np.dtype:
        pickle.loads(pickled(call))
        assert path.exists(), "the pickle is harmless, and this test would prove nothing"


@pytest.mark.parametrize(
    "named",
    [
        b"ctorch.nn.modules\nModule\n.",  # GLOBAL
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"ctorch\nload\n.",
        b"ccollections\nOrderedDict.update\n.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x82\x01.",  # EXT1: a name out of a registry
    ],
)
def test_other_names_are_refused_however_they_are_written(named: bytes) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", named)
    with pytest.raises(CheckpointError):
        read_checkpoint(stream.getvalue())


@FORMS
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([1, 2], "not a dictionary"),
        ({"weight": 3.5}, "'weight' of the checkpoint is not a tensor"),
        ({"weight": [Tensor(Storage("0", NUMBERS), 0, (2,), (1,))]}, "is not a tensor"),
        ({5: Tensor(Storage("0", NUMBERS), 0, (2,), (1,))}, "is not a tensor"),
        ({"weight": Storage("0", NUMBERS)}, "is not a tensor"),
    ],
)
def test_anything_but_named_tensors_is_refused(form, what: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(form(what, Storage("0", NUMBERS)))


@FORMS
@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (25,), (1,), "past its storage"),
        (23, (2,), (1,), "past its storage"),
        (-1, (2,), (1,), "past its storage"),
        (0, (-2, -2), (-2, 1), "past its storage"),
        (0, (1 << 40, 1 << 40), (0, 0), "past its storage"),
        (0, (12,), (2,), "gaps or overlaps"),
        (0, (4, 4), (0, 1), "gaps or overlaps"),
        (0, (2, 2), (2, -1), "gaps or overlaps"),
        (0, (2, 2), (1,), "damaged"),
        ("0", (2, 2), (2, 1), "damaged"),
        (0, 5, 1, "damaged"),
    ],
)
def test_a_view_that_is_no_block_of_its_storage_is_refused(
    form, offset: Any, shape: Any, strides: Any, message: str
) -> None:
    storage = Storage("0", NUMBERS)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(form({"weight": Tensor(storage, offset, shape, strides)}, storage))


@FORMS
def test_a_storage_of_another_length_is_refused(form) -> None:
    storage = Storage("0", NUMBERS, count=1 << 40)
    with pytest.raises(CheckpointError, match="cut off"):
        read_checkpoint(form({"weight": Tensor(storage, 0, (2,), (1,))}, storage))


@FORMS
def test_a_file_cut_off_anywhere_is_refused(form) -> None:
    storage = Storage("0", NUMBERS)
    data = form({"weight": Tensor(storage, 0, (24,), (1,))}, storage)
    assert len(read_checkpoint(data)) == 1
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(CheckpointError):
            read_checkpoint(data[:length])


def test_a_table_that_fills_memory_is_refused() -> None:
    """The unpickler would keep room for four billion objects."""
    bomb = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff" * 4 + b"."
    assert [name.name for name, _, _ in pickletools.genops(bomb)][2] == "LONG_BINPUT"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
    with pytest.raises(CheckpointError, match="exhaust memory"):
        read_checkpoint(stream.getvalue())


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", pickle.dumps(7), pickle.dumps({})])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(data)


@FORMS
def test_big_endian_checkpoints_are_refused(form) -> None:
    storage = Storage("0", NUMBERS)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoint(form({"weight": Tensor(storage, 0, (24,), (1,))}, storage, order="big"))


def test_only_these_names_are_known() -> None:
    """Whoever adds one should think twice: it is called with whatever a stranger wrote."""
    assert {module for module, _ in checkpoint._KNOWN} == {"collections", "torch", "torch._utils"}
    assert all(
        value in (OrderedDict, checkpoint._tensor) or isinstance(value, np.dtype)
        for value in checkpoint._KNOWN.values()
    )

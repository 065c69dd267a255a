"""The file of a built network: a zip with a manifest, code and weights.

    manifest.json      format, versions, target, report; inputs, outputs and weights of each entry
    code/0000.so       kernels and byte code of one entry, that is, of one bucket
    models/0000.onnx   a part of an entry that onnxruntime runs; each compiled part has its code.
                       The last is the model itself, of a network that takes any shape
    weights/0000.npy   one array, which any entry may use

The zip is not compressed. Reading it runs no code of the file: there are no pickles.
"""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics import dtypes
from tvmconv.errors import ArtifactError

#: Of several sizes, or of any, a file has the last format.
#: Files of one size without parts for onnxruntime have the first format, which older versions read.
FORMAT, FORMAT_OF_PARTS, FORMAT_OF_SIZES = 3, 4, 5


@dataclass(frozen=True)
class Artifact:
    """Contents of a file."""

    manifest: dict[str, Any]
    codes: tuple[bytes, ...]
    weights: tuple[NDArray[Any], ...]
    #: Parts that onnxruntime runs, in order.
    models: tuple[bytes, ...] = ()


def write(artifact: Artifact, path: str | Path) -> None:
    """Writes the file, which gets its name once it is complete. Raises `ArtifactError`."""
    path = Path(path)
    # Of its own: another thread or process may write the same file.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as file:
            counts = {"codes": len(artifact.codes), "weights": len(artifact.weights)}
            # NumPy's format knows no bfloat16 and the like: those are stored as plain bits.
            named = {
                i: array.dtype.name
                for i, array in enumerate(artifact.weights)
                if array.dtype.kind == "V"
            }
            kept = {"dtypes": named} if named else {}
            if artifact.models:
                counts["models"] = len(artifact.models)
            written = FORMAT_OF_PARTS if artifact.models else FORMAT
            manifest = {"format": written, **counts, **kept, **artifact.manifest}
            file.writestr("manifest.json", json.dumps(manifest, indent=1))
            for i, code in enumerate(artifact.codes):
                file.writestr(f"code/{i:04d}.so", code)
            for i, model in enumerate(artifact.models):
                file.writestr(f"models/{i:04d}.onnx", model)
            for i, array in enumerate(artifact.weights):
                with file.open(f"weights/{i:04d}.npy", "w") as member:
                    bits = array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
                    np.lib.format.write_array(member, bits, allow_pickle=False)
        unfinished.replace(path)
    except OSError as error:
        raise ArtifactError(
            f"{path} can't be written", note=str(error), hint="does the folder exist?"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | Path) -> Artifact:
    """Reads a file of `write`. Raises `ArtifactError` for another file or a damaged one."""
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read("manifest.json"))
            if manifest["format"] not in (FORMAT, FORMAT_OF_PARTS, FORMAT_OF_SIZES):
                raise ArtifactError(
                    f"{path} has format {manifest['format']}, this version reads {FORMAT} "
                    f"to {FORMAT_OF_SIZES}",
                    hint="build the network again",
                )
            weights = [
                np.lib.format.read_array(
                    io.BytesIO(file.read(f"weights/{i:04d}.npy")), allow_pickle=False
                )
                for i in range(manifest["weights"])
            ]
            for number, name in manifest.get("dtypes", {}).items():
                weights[int(number)] = weights[int(number)].view(dtypes.get(name).numpy)
            codes = tuple(file.read(f"code/{i:04d}.so") for i in range(manifest["codes"]))
            models = (file.read(f"models/{i:04d}.onnx") for i in range(manifest.get("models", 0)))
            return Artifact(manifest, codes, tuple(weights), tuple(models))
    except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a network that tvmconv saved, or is damaged",
            note=f"{type(error).__name__}: {error}",
            hint="`tvmconv build model.onnx -o FILE` writes one",
        ) from error

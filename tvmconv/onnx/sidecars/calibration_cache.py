"""TensorRT's calibration cache: a scale for every tensor, int8 without zero points.

    TRT-8601-EntropyCalibration2
    input: 3c010a14

Each line is a tensor's name and its fp32 scale: the IEEE bits, in hexadecimal, the highest first.
"""

from __future__ import annotations

import re
import struct

from tvmconv.errors import QuantizationError
from tvmconv.onnx.sidecars.sidecar import Scale, Sidecar

#: How the first line begins.
MAGIC = "TRT-"
HEADER = re.compile(r"TRT-\w[\w.]*-\w*Calibration2?\s*")
LINE = re.compile(r"(?P<name>.*\S)\s*:\s*(?P<bits>[0-9a-fA-F]{1,8})\s*")
#: How TensorRT calls tensors between the layers that it makes of one node.
INTERNAL = "(Unnamed Layer*"


def parse(text: str, source: str) -> Sidecar:
    """Reads the text of a file. Raises `QuantizationError`."""
    first, *lines = text.splitlines()
    if not HEADER.fullmatch(first):
        raise QuantizationError(
            f"{source} is not a calibration cache that is known: it begins with {first[:60]!r}",
            hint="the first line is TRT-<version>-EntropyCalibration2 or -MinMaxCalibration",
        )
    scales: dict[str, Scale] = {}
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        found = LINE.fullmatch(line)
        if found is None:
            raise QuantizationError(
                f"{source}: line {number} is not a tensor and its scale: {line[:60]!r}",
                note="such as input: 3c010a14, the scale in hexadecimal",
                hint="was the file written to its end?",
            )
        if found["name"] in scales:
            raise QuantizationError(
                f"{source}: line {number} has tensor {found['name']!r} a second time",
                hint="leave one of the lines out",
            )
        bits = bytes.fromhex(found["bits"].zfill(8))
        scales[found["name"]] = Scale(struct.unpack(">f", bits)[0])
    if not scales:
        raise QuantizationError(
            f"{source} has no scales", hint="was the calibration run to its end?"
        )
    internal = tuple(name for name in scales if name.startswith(INTERNAL))
    for name in internal:
        del scales[name]
    return Sidecar(source, scales, internal=internal)

"""Sessions of onnxruntime that write nothing to the terminal; it raises what it would say.

The runtime imports this file where a network has a part for onnxruntime, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

#: onnxruntime's levels of severity.
WARNING, FATAL = 2, 4
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_session(
    model: Any,
    options: onnxruntime.SessionOptions | None = None,
    disabled: Sequence[str] = (),
    config: Mapping[str, str] | None = None,
    cuda: bool = False,
) -> onnxruntime.InferenceSession:
    """Returns a session.

    model: an ONNX file, as bytes, or a proto. disabled: optimisations to leave out. config: entries
    to add to the options. cuda: use its CUDA provider where that is installed, else the CPU.

    Raises whatever onnxruntime raises: its exceptions have no common base.
    """
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    on_gpu = cuda and CUDA in onnxruntime.get_available_providers()
    # Kernels that are made log to no session's logger. There is no asking for the level that was
    # set before; this is the one that onnxruntime begins with.
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else model.SerializeToString(),
            options,
            providers=[CUDA, CPU] if on_gpu else [CPU],
            disabled_optimizers=list(disabled),
        )
    finally:
        onnxruntime.set_default_logger_severity(WARNING)

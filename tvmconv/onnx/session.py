"""Sessions of onnxruntime that write nothing to the terminal; it raises what it would say."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime

#: onnxruntime's levels of severity.
WARNING, FATAL = 2, 4


def open_session(
    model: onnx.ModelProto | bytes,
    options: onnxruntime.SessionOptions | None = None,
    disabled: Sequence[str] = (),
) -> onnxruntime.InferenceSession:
    """Returns a session on the CPU. disabled: optimisations to leave out.

    Raises whatever onnxruntime raises: its exceptions have no common base.
    """
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    # Kernels that are made log to no session's logger. There is no asking for the level that was
    # set before; this is the one that onnxruntime begins with.
    onnxruntime.set_default_logger_severity(FATAL)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    finally:
        onnxruntime.set_default_logger_severity(WARNING)

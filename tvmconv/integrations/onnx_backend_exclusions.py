"""Cases of onnx's backend test that `tvmconv.integrations.onnx_backend` refuses, with reasons.

BackendTest(TvmconvBackend, __name__).exclude(...) takes the patterns. The error that a case raises
contains the reason, which a test checks.
"""

from __future__ import annotations

import re

#: Names of cases, as regular expressions, by reason; for the operators of docs/operators.md.
EXCLUSIONS: dict[str, tuple[str, ...]] = {
    # tvmconv compiles networks for inference.
    "BatchNormalization (in training mode)": ("test_batchnorm_.*_training_mode",),
    "Dropout (in training mode)": ("test_training_dropout.*",),
    # TVM has no such dtype for the CPU, or NumPy none that it reads.
    "tensors of bfloat16": ("test_cast_.*BFLOAT16.*",),
    "tensors of float4e2m1": ("test_cast_.*FLOAT4E2M1.*",),
    "tensors of float8e4m3fn": ("test_cast_.*FLOAT8E4M3FN", "test_cast_FLOAT8E4M3FN_.*"),
    "tensors of float8e4m3fnuz": ("test_cast_.*FLOAT8E4M3FNUZ.*",),
    "tensors of float8e5m2": ("test_cast_.*FLOAT8E5M2", "test_cast_FLOAT8E5M2_.*"),
    "tensors of float8e5m2fnuz": ("test_cast_.*FLOAT8E5M2FNUZ.*",),
    "tensors of float8e8m0": ("test_cast_e8m0_.*",),
    "tensors of int2": ("test_cast_(.*_)?INT2(_.*)?",),
    "tensors of int4": ("test_cast_(.*_)?INT4(_.*)?",),
    "tensors of uint2": ("test_cast_(.*_)?UINT2(_.*)?",),
    "tensors of uint4": ("test_cast_(.*_)?UINT4(_.*)?",),
    # onnxruntime folds constants, and so has to have the operator.
    "not in onnxruntime for these dtypes": (
        "test_(max|min)_u?int16",
        "test_pow_types_float32_uint(32|64)",
    ),
    # TVM's importer has no such output.
    "MaxPool (with the argmax output)": ("test_maxpool_with_argmax_.*",),
    # A network takes and gives tensors that have elements.
    "is no tensor": ("test_identity_(opt|sequence)",),
    "without elements": (
        "test_reshape_allowzero_reordered",
        "test_slice_start_out_of_bounds",
        "test_split_zero_size_splits_.*",
    ),
}


def exclusion(case: str) -> str | None:
    """The reason to refuse a case, such as ``"test_cast_FLOAT_to_INT4"``; None if it passes."""
    for reason, patterns in EXCLUSIONS.items():
        if any(re.fullmatch(pattern, case) for pattern in patterns):
            return reason
    return None

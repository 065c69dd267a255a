"""tvmconv inside other systems: ONNX's backend interface."""

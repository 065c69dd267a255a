"""Operators as loops: those whose loops in TVM are not what ONNX defines."""

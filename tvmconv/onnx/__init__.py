"""ONNX: read, checked, brought to one form, and imported as Relax."""

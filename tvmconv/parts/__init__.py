"""A network in parts: what can be compiled, and what onnxruntime runs."""

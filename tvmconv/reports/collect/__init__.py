"""Makes reports: from the ONNX graph, the plan and the lowered module, or by running a network."""

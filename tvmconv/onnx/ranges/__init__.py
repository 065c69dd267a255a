"""How large the activations of a network become: feeds to find out with, and what onnxruntime says."""

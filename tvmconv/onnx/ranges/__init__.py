"""How large the activations of a network become: feeds, and what onnxruntime says of them."""

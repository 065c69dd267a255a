"""The sizes of activations: the feeds to find them on, and what onnxruntime says of them."""

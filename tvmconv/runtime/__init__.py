"""A built network: its file, its inputs and outputs, and how it runs."""

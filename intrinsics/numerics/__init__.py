"""The arithmetic of tensor cores, bit for bit, as a choice."""

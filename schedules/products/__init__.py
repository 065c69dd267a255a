"""Products of two computed tensors, in batches, and attention."""

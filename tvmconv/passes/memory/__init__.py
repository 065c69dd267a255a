"""Memory of activations: planned, and checked."""

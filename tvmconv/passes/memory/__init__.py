"""Where activations lie: planned, and checked."""

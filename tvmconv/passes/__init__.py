"""Graph passes of our own: those that bring convolutions to the tensor cores."""

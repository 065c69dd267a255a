"""Scales in a file beside a float model: read, and brought into the model as QDQ."""

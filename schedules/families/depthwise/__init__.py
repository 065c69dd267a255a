"""Depthwise convolutions on ordinary cores."""

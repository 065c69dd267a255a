"""Depthwise convolutions of 8-bit integers by dp4a."""

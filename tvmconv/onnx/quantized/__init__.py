"""Quantised models: every way to write one is brought to QuantizeLinear and DequantizeLinear."""

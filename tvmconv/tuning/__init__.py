"""Tuning: measures configurations of convolutions, and records the fastest."""

"""The networks that benchmarks and tests run, and what they are fed."""

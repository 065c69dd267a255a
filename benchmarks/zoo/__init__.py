"""The networks that benchmarks and tests run, and their inputs."""

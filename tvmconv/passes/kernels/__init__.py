"""From the plan to scheduled kernels, and the schedules of all other operators."""

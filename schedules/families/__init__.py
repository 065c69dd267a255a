"""The families of kernels, a folder each; `schedules.choose` registers them."""

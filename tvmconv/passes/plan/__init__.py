"""The plan of a network: for each convolution a place, a layout and a kernel."""

"""Where each convolution writes, in which layout, and by which kernel."""

"""A depthwise convolution and the 1x1 after it in one kernel."""

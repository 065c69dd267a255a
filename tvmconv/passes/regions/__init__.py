"""A convolution and all that its kernel can do: the walk, and a rule a file."""

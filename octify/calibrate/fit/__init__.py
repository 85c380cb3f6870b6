"""Sequential reconstruction: one convolution after another is refitted by least squares."""

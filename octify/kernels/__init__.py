"""The kernels of the four octave paths, derived from a convolution's own."""

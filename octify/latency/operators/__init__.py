"""Times of single operators in onnxruntime, measured once and kept."""

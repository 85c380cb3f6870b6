"""Training a converted model further, towards its original or labels. On Hugging Face Accelerate."""

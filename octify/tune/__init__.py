"""Training a converted model further: distillation from its original, or with labels. On Hugging Face Accelerate."""

"""Distillation of the fitted model, without labels."""

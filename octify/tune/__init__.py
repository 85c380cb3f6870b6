"""Tuning a converted model: distillation from its original, supervised training, or both.

``tune`` trains every parameter of the converted model, on one process or on all that Hugging Face
Accelerate started; a run can be stopped and resumed, with the same result.
"""

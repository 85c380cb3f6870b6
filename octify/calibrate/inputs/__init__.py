"""Inputs of calibration: the user's, altered copies, synthetic images."""

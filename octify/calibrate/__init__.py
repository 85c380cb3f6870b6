"""Calibration: keeps a trained network's accuracy through the conversion, without labels."""

"""What calibration runs on: the user's inputs, altered copies, synthetic images."""

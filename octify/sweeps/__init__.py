"""Sweeps of a model over several alphas: points and plot."""

"""A model at several alphas: its points, and their plot."""

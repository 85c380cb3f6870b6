"""Comparisons of two models: every distance between models is defined here."""

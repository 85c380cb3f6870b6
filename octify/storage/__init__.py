"""Atomic replacement of folders, with signals held back meanwhile."""

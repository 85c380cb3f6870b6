"""Replacing folders whole, and holding signals back while that is done."""

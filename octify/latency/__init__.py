"""Measured latency: contestants (``contestant``), interleaved rounds (``rounds``), memory and profiles."""

"""Which channels of a coupled set are low."""

"""A user's own metric: loaded, run on the original and on the result, and compared."""

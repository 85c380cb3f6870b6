"""Choice of the low channels of a coupled set."""

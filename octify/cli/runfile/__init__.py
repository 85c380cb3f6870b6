"""The run file (``octify.toml``): what it may hold, its reading, its steps and what is done already."""

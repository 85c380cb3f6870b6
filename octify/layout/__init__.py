"""Roles of a value's dimensions, and an id for each of its channels: data, no graph."""

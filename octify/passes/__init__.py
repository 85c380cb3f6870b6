"""Walks over a traced graph: coupling, resolving a plan, rewriting, the projected reference."""

"""Idioms that wait for a fault to be mended, or to be tried on their own, with the fault's number."""

from __future__ import annotations

PENDING: dict[str, str] = {}

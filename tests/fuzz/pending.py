"""Idioms that wait for a fault to be mended, or to be tried on their own, with the fault's number."""

from __future__ import annotations

PENDING: dict[str, str] = {
    "shape/odd sizes": "W10",
    "shape/alpha 1": "W10",
    # Not numbered yet: a map of size 1 at the example's size, larger at another.
    "shape/size one": "new",
}

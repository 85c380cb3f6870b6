"""Parsing of input shapes: ``1x3x224x224``, ``1x16:int64``. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from octify.errors import SourceError

MOST_VALUES = 2**40  # largest number of elements of one input
_DIGITS = 100
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")


@dataclass(frozen=True)
class Shape:
    """The sizes of one input and the name of its dtype."""

    sizes: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        suffix = "" if self.dtype == "float32" else f":{self.dtype}"
        return "x".join(map(str, self.sizes)) + suffix


def parse_shape(text: str) -> Shape:
    """Read a shape such as ``1x3x224x224`` or ``1x16:int64``; SourceError when it is not one."""
    sizes_text, colon, dtype = text.strip().partition(":")
    if colon and dtype not in DTYPES:
        raise SourceError(
            f"--input {text}: unknown dtype {dtype!r}", hint=f"one of {', '.join(DTYPES)}: --input 1x16:int64"
        )
    words = sizes_text.replace(",", "x").split("x")
    if not all(word.isascii() and word.isdigit() and word.strip("0") for word in words):
        raise SourceError(
            f"--input {text!r} is not a shape",
            why="a shape is positive whole numbers joined by x: batch, channels, height, width",
            hint="--input 1x3x224x224",
        )
    # Longer numbers than these Python may refuse to read.
    sizes = tuple(int(word) if len(word) < _DIGITS else MOST_VALUES + 1 for word in words)
    if math.prod(sizes) > MOST_VALUES:
        raise SourceError(
            f"--input {text[:80]} is too large",
            why=f"it has more than {MOST_VALUES:,} values",
            hint="--input 1x3x224x224",
        )
    return Shape(sizes, dtype or "float32")

"""Types of calibration inputs in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Chunk = tuple[Tensor, ...]
"""The model's inputs, each with as many rows."""

Chunks = Sequence[Chunk]
"""All inputs, a chunk at a time."""

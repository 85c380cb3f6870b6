"""Words that say how a convolution becomes octave. Rule files are read by them, without numpy or torch."""

from __future__ import annotations

from typing import Literal

Scheme = Literal["paper", "exact"]
Exchange = Literal["full", "spatial", "high-to-low"]  # which paths 1x1 convolutions have (octify.nn.exchange)

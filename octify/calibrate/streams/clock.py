"""Seconds that a budget counts."""

from __future__ import annotations

import time

import torch
from torch import nn


class Clock:
    """Seconds since it was made, as of a machine with nothing else to do.

    On a CPU they are those of all threads over their number, so that other programs do not change what a
    budget buys.
    """

    def __init__(self, module: nn.Module) -> None:
        self._cpu = all(p.device.type == "cpu" for p in module.parameters())
        self._start = self._now()

    def seconds(self) -> float:
        """Seconds since it was made; more than 0."""
        return max(self._now() - self._start, 1e-9)

    def _now(self) -> float:
        return time.process_time() / torch.get_num_threads() if self._cpu else time.perf_counter()

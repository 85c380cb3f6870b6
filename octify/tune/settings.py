"""What a tuning run was asked for."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from octify.errors import OctifyError

Precision = Literal["no", "bf16", "fp16"]
Norms = Literal["frozen", "train"]


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a run; its result is a function of these, the data and the model.

    steps:
        Optimizer steps; the learning rate falls along a cosine over all of them.
    batch:
        Inputs of a step, over all processes together.
    rate, decay:
        Of AdamW; the rate is the largest.
    warmup:
        Share of the steps in which the rate rises.
    distill:
        Weight of the distance to the original's outputs; 1 minus that is the weight of the labels.
    precision:
        Of the forward pass (autocast); weights and optimizer stay in float32.
    norms:
        ``"frozen"`` BatchNorm statistics, or ones that follow the batches (``"train"``).
    held_out:
        Share of the inputs kept aside to measure on.
    """

    steps: int = 1000
    batch: int = 32
    rate: float = 1e-4
    decay: float = 0.0
    warmup: float = 0.05
    distill: float = 1.0
    precision: Precision = "no"
    norms: Norms = "frozen"
    held_out: float = 0.1
    augment: bool = True
    seed: int = 0

    def check(self) -> None:
        """OctifyError for a number that cannot be right."""
        for name, good, why in (
            ("--steps", self.steps > 0, "a whole number above 0"),
            ("--batch", self.batch > 0, "a whole number above 0"),
            ("--lr", 0 < self.rate < math.inf, "a number above 0"),
            ("--weight-decay", 0 <= self.decay < math.inf, "0 or more"),
            ("--warmup", 0 <= self.warmup < 1, "a share of the steps, below 1"),
            ("--distill-weight", 0 <= self.distill <= 1, "a share from 0 to 1"),
            ("--held-out", 0 < self.held_out < 1, "a share of the inputs between 0 and 1"),
        ):
            if not good:
                raise OctifyError(f"{name} cannot be that", why=f"it is {why}")

    def rate_at(self, step: int) -> float:
        """The factor on the learning rate at ``step``: a linear rise, then half a cosine down to 0."""
        warm = max(1, round(self.warmup * self.steps))
        rise = min(1.0, (step + 1) / warm)
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

    def key(self, **about: Any) -> str:
        """A digest of these settings and ``about``: what a checkpoint must have been made with."""
        asked = json.dumps(asdict(self) | about, sort_keys=True, default=str)
        return hashlib.sha256(asked.encode()).hexdigest()

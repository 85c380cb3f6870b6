"""Options of a tuning run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from octify.errors import OctifyError

Norm = Literal["frozen", "reestimated", "batch"]
Labels = Literal["auto", "none", "required"]
Precision = Literal["no", "bf16", "fp16"]
_MOST = 2**31


@dataclass(frozen=True)
class Options:
    """
    batch:
        Batch size of a step, summed over all processes.
    lr:
        Largest learning rate of AdamW, reached after ``warmup`` steps (None: a twentieth of all); a cosine
        then takes it to 0.
    weight_decay:
        Weight decay of weights; biases and norms have none.
    precision:
        Mixed precision; None: that of ``accelerate launch``, else ``"no"`` (float32).
    held_out:
        Share of the inputs held out to measure on.
    labels:
        ``"auto"``: use labels if the data has them and the model's output is (N, classes, ...).
    distill_weight:
        Weight of the distillation loss beside the labels' loss; None: .5 with labels. 1 without labels.
    augment:
        ``"auto"``: shift with labels, flip (and shift) without, none for data with its own transforms.
    norm:
        BatchNorm statistics: ``"frozen"`` unchanged, ``"reestimated"`` on the data before the first step
        and then frozen, or ``"batch"``: each batch's own, averaged as in training.
    """

    steps: int
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: int | None = None
    precision: Precision | None = None
    seed: int = 0
    held_out: float = 0.1
    labels: Labels = "auto"
    distill_weight: float | None = None
    augment: Literal["auto", "none", "shift", "flip"] = "auto"
    norm: Norm = "frozen"
    checkpoint_every: int = 200

    def check(self) -> None:
        """Validate the values. Raises OctifyError."""
        _require("--steps", self.steps, 1 <= self.steps < _MOST, "at least 1, and below 2^31")
        _require("--batch", self.batch, 1 <= self.batch < _MOST, "at least 1, and below 2^31")
        _require("--lr", self.lr, 0 < self.lr < math.inf, "above 0")
        _require("--weight-decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or above")
        _require("--eval", self.held_out, 0 <= self.held_out <= 0.9, "a share from 0 to 0.9")
        _require("--checkpoint-every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or above")
        if self.warmup is not None:
            _require("--warmup", self.warmup, 0 <= self.warmup <= self.steps, "from 0 to --steps")
        if self.distill_weight is not None:
            weight = self.distill_weight
            _require("--distill-weight", weight, 0 <= weight <= 1, "a share from 0 to 1")
            if self.labels == "none" and weight != 1:
                raise OctifyError(
                    f"--distill-weight {weight:g} needs labels",
                    why="without them distillation is all there is",
                )

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        warm = max(1, self.steps // 20) if self.warmup is None else self.warmup
        rising = min(1.0, (step + 1) / warm) if warm else 1.0
        return self.lr * rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def _require(option: str, value: float, right: bool, what: str) -> None:
    if not right:
        written = f"{value:g}" if abs(value) < 1e300 or value != value else "out of range"
        raise OctifyError(f"{option} is {written}", why=f"it is {what}")

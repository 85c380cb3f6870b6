"""How far a converted model's answers are from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octify.calibrate.observe import tensors_of


@dataclass(frozen=True)
class Agreement:
    """On inputs that calibration did not use (or did, see ``held_out``).

    relative_error:
        ``||converted - original|| / ||original - mean over the inputs||`` of the outputs (of one
        input: over ``||original||``).
    agreement:
        Share of inputs with the original's argmax; None if the output is not (N, classes).
    """

    inputs: int
    held_out: bool
    relative_error: float
    agreement: float | None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form."""
        return {
            "inputs": self.inputs,
            "held_out": self.held_out,
            "relative_error": self.relative_error,
            "agreement": self.agreement,
        }


@torch.no_grad()
def outputs(model: nn.Module, chunks: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Every floating point output over all chunks, concatenated, on the CPU; ``model`` runs in eval mode."""
    training = model.training
    model.eval()
    found = [tensors_of(model(*chunk)) for chunk in chunks]
    model.train(training)
    return [torch.cat([part.float().cpu() for part in parts]) for parts in zip(*found, strict=True)]


def compare(original: Sequence[Tensor], converted: Sequence[Tensor], *, held_out: bool) -> Agreement:
    """The agreement of two models' ``outputs``."""
    error = sum(float((a - b).double().square().sum()) for a, b in zip(original, converted, strict=True))
    spread = sum(float(_centred(a).double().square().sum()) for a in original)
    first = original[0]
    agreement = None
    if len(original) == 1 and first.ndim == 2 and first.shape[1] > 1:
        agreement = float((first.argmax(1) == converted[0].argmax(1)).double().mean())
    return Agreement(len(first), held_out, (error / max(spread, 1e-30)) ** 0.5, agreement)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(0, keepdim=True) if len(values) > 1 else values

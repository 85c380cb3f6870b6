"""Comparisons of ``octify verify``: the references of a conversion, and the tolerances.

A float32 check may differ by a few times the noise that float32 itself makes: the distance between a
model's float32 and float64 answers, measured on the original and on the projected reference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.passes.consistent import leaves_of
from octify.passes.resolve import resolve
from octify.plan import Plan
from octify.trace import trace

FLOAT64_SHARE = 1e-10  # share of the largest output: far above rounding, far below any real fault


@dataclass(frozen=True)
class Check:
    """One comparison. ``passed`` is None where it does not apply, and ``note`` says why."""

    name: str
    dtype: str
    max_abs_error: float
    allowed: float
    passed: bool | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as ``--json`` prints it."""
        return asdict(self)


def check(name: str, dtype: str, error: float, allowed: float, exempt: str = "") -> Check:
    """A comparison that passes when ``error`` is a number of at most ``allowed``.

    One that fails for the reason ``exempt`` is neither passed nor failed.
    """
    if error <= allowed:
        return Check(name, dtype, error, allowed, True)
    return Check(name, dtype, error, allowed, None if exempt else False, exempt)


def odd_values(model: nn.Module, inputs: tuple[Tensor, ...], plan: Plan) -> str:
    """Reason why ``plan`` is not exact at its maps' borders: octave values of odd size; empty without any.

    There the last low row or column covers less than a 2x2 block, and the border differs from the
    projected reference.
    """
    traced = trace(model, inputs, leaves=leaves_of(plan, model), inside=plan.inside)
    resolved = resolve(traced, plan)
    odd = []
    for node in traced.module.graph.nodes:
        size = (traced.shape(node) or ())[2:]
        if resolved.mask(node.name) is not None and any(n % 2 and n > 1 for n in size):
            odd.append(f"{node.name} {'x'.join(map(str, size))}")
    return f"{len(odd)} octave maps have odd sizes ({odd[0]}, ...): inexact at the border" if odd else ""


def enlivened(model: nn.Module, seed: int = 0) -> tuple[nn.Module, list[str]]:
    """Copy ``model`` with random values in its constant parameters and statistics; return their names too.

    An untrained model hides faults: its norms have scale 1 (or 0, at the end of residual branches),
    shift 0 and the same statistics in every channel, so that mixed-up channels go unseen. What must
    hold for a conversion holds for any weights; what training or a file has set is kept.
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    changed = []
    for name, entry in [*model.named_parameters(), *model.named_buffers()]:
        if entry.numel() < 2 or not entry.is_floating_point() or not (entry == entry.flatten()[0]).all():
            continue
        changed.append(name)
        noise = torch.rand(entry.shape, generator=generator).to(entry)
        is_shift = name.endswith(("bias", "running_mean", "beta"))
        if entry.ndim > 1:
            fan_in = entry[0].numel()
            entry.data = (2 * noise - 1) * (3 / fan_in) ** 0.5
        else:
            entry.data = 0.2 * noise - 0.1 if is_shift else 0.5 + noise
    return model, changed


def in_float64(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A float64 copy of ``model``, and its floating inputs in float64."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return copy.deepcopy(model).double(), wide


def answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Every tensor in the model's output, in order."""
    with torch.no_grad():
        return _tensors(model.eval()(*inputs))


def distance(these: list[Tensor], those: list[Tensor]) -> float:
    """The largest absolute difference; infinite where the outputs do not match in number, shape or NaNs."""
    if len(these) != len(those) or any(a.shape != b.shape for a, b in zip(these, those, strict=True)):
        return math.inf
    largest = 0.0
    for a, b in zip(these, those, strict=True):
        if a.numel() and not torch.equal(a, b):
            # Equal infinities differ by nothing; any other infinity differs from a number without bounds.
            apart = torch.where(a == b, 0.0, (a.double() - b.double()).abs())
            difference = float(apart.max())
            largest = max(largest, math.inf if math.isnan(difference) else difference)
    return largest


def largest(outputs: list[Tensor]) -> float:
    """The largest finite absolute value in ``outputs``."""
    finite = [entry[torch.isfinite(entry)] for entry in outputs]
    return max((float(entry.abs().max()) for entry in finite if entry.numel()), default=0.0)


def float32_noise(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Largest difference between the model's float32 and float64 outputs."""
    wide_model, wide_inputs = in_float64(model, inputs)
    narrow, wide = answers(model, inputs), answers(wide_model, wide_inputs)
    # Where the two happen to agree exactly, one rounding of the result is still allowed.
    return max(distance(narrow, wide), torch.finfo(torch.float32).eps * largest(wide))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for entry in value.values() for tensor in _tensors(entry)]
    if isinstance(value, (tuple, list)):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []

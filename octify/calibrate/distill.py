"""Whitened distillation: the converted model learns the original's outputs, without labels.

Each fitted branch keeps the covariance of what it reads, ``G = U L U'``, and is written as
``W = W0 + U L^-1/2 V``. Adam on V then takes steps that change the branch's output, not its
weights, by equal amounts in every direction: twice the gain of plain Adam at the same steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from octify.calibrate.affine import unscaling
from octify.calibrate.augment import augmented
from octify.calibrate.observe import tensors_of
from octify.calibrate.repair import branch_norm, branch_paths
from octify.calibrate.rows import rows_as_weight, weight_as_rows
from octify.calibrate.sites import Site
from octify.calibrate.solve import Fit
from octify.rewrite import Rewritten
from octify.trace import Traced

STEPS = 600
BATCH = 32
CLIP = 5.0
_FLOOR = 1e-3  # of the mean eigenvalue: directions that the data hardly shows are not blown up


@dataclass(frozen=True)
class _Branch:
    """A branch's weights as a function of V (groups, D, O) and a bias offset (groups * O,)."""

    names: tuple[tuple[str, bool, int, Tensor], ...]  # parameter, transposed, rows, present value
    factor: Tensor
    whitening: Tensor
    bias_name: str | None
    bias: Tensor

    def start(self) -> Tensor:
        """V = 0, in its shape."""
        w = self.whitening
        return w.new_zeros(w.shape[0], w.shape[2], self.factor.shape[2])

    def weights(self, v: Tensor, offset: Tensor) -> dict[str, Tensor]:
        rows = (self.whitening @ v) * self.factor
        found: dict[str, Tensor] = {}
        start = 0
        for name, transposed, count, value in self.names:
            found[name] = value + rows_as_weight(rows[:, start : start + count], value, transposed)
            start += count
        if self.bias_name is not None:
            found[self.bias_name] = self.bias + offset
        return found


def distill(
    traced: Traced,
    rewritten: Rewritten,
    sites: Sequence[Site],
    fits: Mapping[tuple[str, str], Fit],
    chunks: Sequence[tuple[Tensor, ...]],
    *,
    alpha: float,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> None:
    """Train the fitted branches of ``rewritten`` in place; the model runs in eval mode throughout."""
    teacher = copy.deepcopy(traced.module).eval().requires_grad_(False)
    student = rewritten.module.eval()
    branches = _branches(student, sites, fits)
    if not branches:
        return
    inputs = [torch.cat(parts) for parts in zip(*chunks, strict=True)]
    device = inputs[0].device
    free = [(branch.start(), torch.zeros_like(branch.bias)) for branch in branches]
    parameters = [t.requires_grad_() for pair in free for t in pair]
    rate = 2e-4 if alpha <= 0.25 else 1e-3
    optimizer = torch.optim.Adam(parameters, lr=rate)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, i / steps))),
    )
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    size = min(BATCH, len(inputs[0]))
    for step in range(steps):
        progress("distilling", step, steps)
        if len(order) < size:
            order += torch.randperm(len(inputs[0]), generator=generator).tolist()
        picked = torch.tensor([order.pop() for _ in range(size)], device=device)
        batch = augmented([x[picked] for x in inputs], generator)
        with torch.no_grad():
            wanted = tensors_of(teacher(*batch))
        changed: dict[str, Tensor] = {}
        for branch, (v, offset) in zip(branches, free, strict=True):
            changed |= branch.weights(v, offset)
        loss = relative_loss(tensors_of(functional_call(student, changed, tuple(batch))), wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
    _write(student, branches, free)


def relative_loss(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """``10 ||centred difference||^2 / ||centred target||^2``; logits are centred over the classes."""
    total: Tensor | None = None
    for a, b in zip(given, wanted, strict=True):
        dim = 1 if b.ndim == 2 else 0
        difference, target = a - b, b - b.mean(dim, keepdim=True)
        if b.ndim == 2:
            difference = difference - difference.mean(1, keepdim=True)
        part = 10 * difference.square().sum() / target.square().sum().clamp_min(1e-12)
        total = part if total is None else total + part
    assert total is not None
    return total


def _branches(
    student: nn.Module, sites: Sequence[Site], fits: Mapping[tuple[str, str], Fit]
) -> list[_Branch]:
    names = {id(p): name for name, p in student.named_parameters()}
    found = []
    for site in sites:
        for which in ("high", "low"):
            fit = fits.get((site.path, which))
            if fit is not None:
                found.append(_branch(site, which, fit, names))
    return found


def _branch(site: Site, which: str, fit: Fit, names: Mapping[int, str]) -> _Branch:
    paths = branch_paths(site.conv, which)
    groups, _, each = fit.weights.shape
    norm = branch_norm(site, which)
    own = []
    for path_name, path in paths:
        weight = path.get_parameter("weight")
        transposed = site.conv.recipes[path_name].transposed
        rows = weight_as_rows(path, transposed).shape[1]
        own.append((names[id(weight)], transposed, rows, weight.detach().clone()))
    held = norm.bias if norm is not None else next((p.bias for _, p in paths if p.bias is not None), None)
    bias = held if isinstance(held, nn.Parameter) else None
    values, vectors = torch.linalg.eigh(fit.gram.double())
    floor = _FLOOR * values.mean(1, keepdim=True).clamp_min(1e-20)
    whitening = vectors * (values.clamp_min(0) + floor).rsqrt()[:, None, :]
    factor = unscaling(norm, groups * each, fit.weights).reshape(groups, 1, each)
    like = bias.detach().clone() if bias is not None else fit.weights.new_zeros(groups * each)
    name = None if bias is None else names[id(bias)]
    return _Branch(tuple(own), factor, whitening.to(fit.weights), name, like)


@torch.no_grad()
def _write(student: nn.Module, branches: Sequence[_Branch], free: Sequence[tuple[Tensor, Tensor]]) -> None:
    parameters = dict(student.named_parameters())
    for branch, (v, offset) in zip(branches, free, strict=True):
        for name, value in branch.weights(v, offset).items():
            parameters[name].copy_(value)

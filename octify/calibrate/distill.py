"""Whitened distillation: the converted model learns the original's outputs, without labels.

Each fitted branch keeps the covariance of what it reads, ``G = U L U'``, and is written as
``W = W0 + U L^-1/2 V S``, S the root mean squares of its outputs. Adam on V then takes steps that
change the branch's output, not its weights, by equal shares of it in every direction: twice the gain
of plain Adam at the same steps. Without S the steps were so large for outputs of small variance (as
behind a small BatchNorm weight) that training forgot the fit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from octify.calibrate.augment import augmented
from octify.calibrate.linear_form import Block
from octify.calibrate.observe import tensors_of
from octify.calibrate.sites import Site
from octify.calibrate.solve import Fit
from octify.calibrate.write import unfolding
from octify.rewrite import Rewritten
from octify.trace import Traced

STEPS = 600
BATCH = 32
CLIP = 5.0
RATE = 3e-4  # a share of an output's root mean square; 1e-3 forgets the fit
GENTLE_ALPHA, GENTLE_RATE = 0.25, 1e-4  # where there is little to repair
_FLOOR = 1e-3  # of the mean eigenvalue: directions that the data hardly shows are not blown up


_HALF = (torch.float16, torch.bfloat16)  # whose gradients overflow or vanish: trained in float32
Fits = Mapping[tuple[str, str], Sequence[tuple[Block, Fit]]]


@dataclass(frozen=True)
class _Trained:
    """A block's weights as a function of V (groups, D, O) and a bias offset (groups * O,).

    names:
        Of the weight of each slice; ``bias`` names the parameter that holds the biases, and the block's
        place in it.
    """

    block: Block
    names: tuple[str, ...]
    factor: Tensor
    whitening: Tensor
    bias: tuple[str, slice] | None

    def start(self) -> tuple[Tensor, Tensor]:
        """V = 0 and no offset."""
        w, block = self.whitening, self.block
        return w.new_zeros(block.groups, w.shape[2], block.outputs), w.new_zeros(block.groups * block.outputs)

    def add_to(
        self, changed: dict[str, Tensor], own: Mapping[str, Tensor], v: Tensor, offset: Tensor
    ) -> None:
        """Add what V and the offset change to the parameters ``changed``, which are ``own`` otherwise."""
        rows = (self.whitening @ v) * self.factor
        for name, (part, its) in zip(self.names, self.block.parted(rows), strict=True):
            changed[name] = changed.get(name, own[name]) + part.inside(its)
        if self.bias is not None:
            name, place = self.bias
            value = changed.get(name, own[name])
            around = (place.start, len(value) - place.stop)
            changed[name] = value + F.pad(offset, around)


def distill(
    traced: Traced,
    rewritten: Rewritten,
    sites: Sequence[Site],
    fits: Fits,
    chunks: Sequence[tuple[Tensor, ...]],
    *,
    alpha: float,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> None:
    """Train the fitted branches of ``rewritten`` in place; the model runs in eval mode throughout."""
    teacher = copy.deepcopy(traced.module).eval().requires_grad_(False)
    if any(parameter.dtype in _HALF for parameter in teacher.parameters()):
        teacher.float()
    student = rewritten.module.eval()
    trained = _trained(student, sites, fits)
    if not trained:
        return
    own = {name: _wide(parameter.detach().clone()) for name, parameter in student.named_parameters()}
    held = own | {name: _wide(buffer) for name, buffer in student.named_buffers()}
    inputs = [_wide(torch.cat(parts)) for parts in zip(*chunks, strict=True)]
    device = inputs[0].device
    free = [part.start() for part in trained]
    parameters = [t.requires_grad_() for pair in free for t in pair]
    rate = GENTLE_RATE if alpha <= GENTLE_ALPHA else RATE
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
        for part, (v, offset) in zip(trained, free, strict=True):
            part.add_to(changed, own, v, offset)
        loss = relative_loss(tensors_of(functional_call(student, held | changed, tuple(batch))), wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
    changed = {}
    with torch.no_grad():
        for part, (v, offset) in zip(trained, free, strict=True):
            part.add_to(changed, own, v, offset)
        for name, value in changed.items():
            student.get_parameter(name).copy_(value)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in _HALF else values


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


def _trained(student: nn.Module, sites: Sequence[Site], fits: Fits) -> list[_Trained]:
    names = {id(p): name for name, p in student.named_parameters()}
    return [
        _block(site, branch, block, fit, names)
        for site in sites
        for branch in ("high", "low")
        for block, fit in fits.get((site.path, branch), ())
    ]


def _block(site: Site, branch: str, block: Block, fit: Fit, names: Mapping[int, str]) -> _Trained:
    norm = site.branch_norm(branch)
    holders = [(part.conv.bias, part.first) for part in block.slices if part.conv.bias is not None]
    bias: tuple[str, slice] | None = None
    if norm is not None and id(norm.bias) in names:
        bias = names[id(norm.bias)], block.channels
    elif norm is None and holders:
        held, first = holders[0]
        bias = names[id(held)], block.places(first)
    values, vectors = torch.linalg.eigh(fit.gram.double())
    floor = _FLOOR * values.mean(1, keepdim=True).clamp_min(1e-20)
    whitening = vectors * (values.clamp_min(0) + floor).rsqrt()[:, None, :]
    factor = unfolding(site, branch, block, fit.weights) * _size_of_outputs(fit)
    weights = tuple(names[id(part.conv.get_parameter("weight"))] for part in block.slices)
    return _Trained(block, weights, factor, whitening.to(fit.weights), bias)


def _size_of_outputs(fit: Fit) -> Tensor:
    """Root mean square of each output, less its bias: (groups, 1, O)."""
    weights = fit.weights[:, :-1]
    return ((fit.gram @ weights) * weights).sum(1, keepdim=True).clamp_min(0).sqrt()

"""The peers: structured pruning with Torch-Pruning (group magnitude) to wanted MACs, and what repairs it."""

from __future__ import annotations

import copy
import math

import torch
import torch_pruning
from torch import Tensor, nn

from octify.calibrate.distill.distill import BATCH, CLIP
from octify.calibrate.fit.renorm import reestimate
from octify.calibrate.inputs.augment import augmented, blended
from octify.calibrate.recipe import STEPS
from octify.compare.loss import relative_loss

RATE = 1e-3
_BISECTIONS = 7  # to .007: finer than one channel of 96


def macs(model: nn.Module, example: Tensor) -> int:
    """Of convolutions and linear layers, as octify counts them for every other method."""
    total = 0

    def count(module: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += weight[0].numel() * y.numel()

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return total


def pruned(model: nn.Module, example: Tensor, wanted: float) -> tuple[nn.Module, float]:
    """A copy of ``model`` without the channels of least magnitude, and its share of the original's MACs.

    All coupled sets lose the same share of their channels. That moves in steps (one channel of 32 is 6 % of
    the MACs), so the last step is taken by the first few layers only: as many as bring the MACs nearest to
    ``wanted`` (a share of the original's).
    """
    whole = macs(model, example)

    def share(candidate: nn.Module) -> float:
        return macs(candidate, example) / whole

    keep, drop = 0.0, 0.95  # pruning ratios that leave too much, and too little
    for _ in range(_BISECTIONS):
        middle = (keep + drop) / 2
        if share(_prune(model, example, middle, middle, 0)) > wanted:
            keep = middle
        else:
            drop = middle
    few, many = 0, sum(isinstance(m, nn.Conv2d) for m in model.modules())
    while many - few > 1:
        middle = (few + many) // 2
        if share(_prune(model, example, keep, drop, middle)) > wanted:
            few = middle
        else:
            many = middle
    candidates = [_prune(model, example, keep, drop, first) for first in (few, many)]
    best = min(candidates, key=lambda candidate: abs(share(candidate) - wanted))
    return best, share(best)


def _prune(model: nn.Module, example: Tensor, keep: float, drop: float, first: int) -> nn.Module:
    """A copy pruned by ``drop`` in its first ``first`` convolutions and by ``keep`` in the others."""
    model = copy.deepcopy(model)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=keep,
        pruning_ratio_dict=dict.fromkeys(convs[:first], drop),
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)],
    )
    pruner.step()
    return model.eval()


def renormalise(model: nn.Module, images: Tensor) -> None:
    """BatchNorm statistics of ``images``, in place."""
    reestimate(model, [(chunk,) for chunk in images.split(128)])


def distil(
    model: nn.Module, teacher: nn.Module, images: Tensor, seed: int, steps: int = STEPS["thorough"]
) -> None:
    """Train all parameters on the teacher's outputs, in place: the loss, augmentation, batches, number of
    steps and schedule of octify's distillation; plain Adam."""
    teacher, model = teacher.eval(), model.eval()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, i / steps)))
    )
    order: list[int] = []
    for _ in range(steps):
        if len(order) < BATCH:
            order += torch.randperm(len(images), generator=generator).tolist()
        batch = blended(augmented([images[[order.pop() for _ in range(BATCH)]]], generator), generator)
        with torch.no_grad():
            wanted = teacher(*batch)
        loss = relative_loss([model(*batch)], [wanted])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()

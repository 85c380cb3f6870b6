"""Distillation: the converted model learns the original's outputs and inner maps, without labels.

Adam on the coordinates of ``directions``, over images that are moved and blended at random, a cosine
from the first rate to 0. The rate is a share of the error to be repaired: where little is wrong, large
steps would only add noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from octify.calibrate.augment import alteration, blended
from octify.calibrate.compare import Output, compare, outputs, typical_ratio
from octify.calibrate.directions import Directions, directions
from octify.calibrate.execution import out_of_place
from octify.calibrate.features import Compared, compared
from octify.calibrate.images import Images, gradient_batch
from octify.calibrate.items import Row
from octify.calibrate.observe import tensors_of
from octify.calibrate.repair import Repaired
from octify.calibrate.work import of_run
from octify.rewrite import Rewritten
from octify.trace import Traced

BATCH = 32
CLIP = 5.0
RATE = 4e-3  # of an output's root mean square, for each unit of relative error at the start
_MOST_ERROR = 0.4  # beyond it, larger steps lose more than they find
MAPS = 3.0  # weight of the inner maps' loss; 1 to 10 are alike
PASSES = 24  # over the images, however large the model
AFFORDABLE = 24e12  # multiply-accumulates that are not worth saving: about 4 minutes of two cores
_RUNS = 4  # of the original, that a step on an image costs: its own, and the student's three
_HALF = (torch.float16, torch.bfloat16)  # whose gradients overflow or vanish: trained in float32
Progress = Callable[[str, int, int], None]


def distill(
    traced: Traced,
    original: fx.GraphModule,
    rewritten: Rewritten,
    repaired: Repaired,
    images: Images,
    wanted: Sequence[Output],
    *,
    steps: int,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> None:
    """Train the fitted branches of ``rewritten`` in place, in eval mode throughout.

    Parameters
    ----------
    original:
        A copy of ``traced.module`` from before the fits, which write to what it shares with ``rewritten``.
    wanted:
        The original's ``outputs`` for ``images.held_out``: where the error there is not smaller for the
        training, nothing is changed. Without such images it is kept.
    """
    models = compared(original, rewritten, repaired.sites)
    trained = directions(models.student, repaired.sites, repaired.fits)
    if not trained:
        return
    if any(parameter.dtype in _HALF for parameter in models.teacher.parameters()):
        models.teacher.float()
    with out_of_place(models.teacher), out_of_place(models.student):
        learned = _learned(models, trained, _batches(traced, images, steps, seed), steps, progress)
    _keep(rewritten.module, learned, images.held_out, wanted)


def affordable(traced: Traced, images: int, steps: int) -> int:
    """At most ``steps``, for which every image is seen `PASSES` times, or `AFFORDABLE` is spent."""
    once = _RUNS * of_run(traced, 1)
    seen = max(PASSES * images, AFFORDABLE / max(1, once))
    return min(steps, math.ceil(seen / _batch(traced, images)))


def _batch(traced: Traced, images: int) -> int:
    """Images of a step."""
    return max(1, min(BATCH, images, gradient_batch(traced)))


def _batches(traced: Traced, images: Images, steps: int, seed: int) -> Iterator[list[Tensor]]:
    """``steps`` batches, each of images of one size, altered and blended."""
    groups = _by_size(images)
    size = _batch(traced, max(len(group[0]) for group in groups))
    generator, alter = torch.Generator().manual_seed(seed), alteration(images)
    left: list[tuple[list[Tensor], Tensor]] = []
    for _ in range(steps):
        left = left or _epoch(groups, size, generator)
        group, picked = left.pop()
        batch = [x[picked.to(x.device)] for x in group]
        yield blended(alter(batch, generator), generator)


def _by_size(images: Images) -> list[list[Tensor]]:
    """All images of a size together, each input of the model one tensor."""
    found: dict[tuple[torch.Size, ...], list[tuple[Tensor, ...]]] = {}
    for chunk in images.chunks:
        found.setdefault(tuple(x.shape[1:] for x in chunk), []).append(chunk)
    return [[_wide(torch.cat(parts)) for parts in zip(*chunks, strict=True)] for chunks in found.values()]


def _epoch(
    groups: Sequence[list[Tensor]], size: int, generator: torch.Generator
) -> list[tuple[list[Tensor], Tensor]]:
    """Every image once, in batches of ``size`` in a random order; a rest smaller than that is left out."""
    batches = []
    for group in groups:
        count = len(group[0])
        full = max(1, count // size) * size
        order = torch.randperm(count, generator=generator)[:full]
        batches += [(group, part) for part in torch.split(order, size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@torch.enable_grad()
def _learned(
    models: Compared,
    trained: Sequence[Directions],
    batches: Iterator[list[Tensor]],
    steps: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """The parameters of the student that training changes, by name."""
    student = models.student
    own = {name: _wide(parameter.detach().clone()) for name, parameter in student.named_parameters()}
    held = own | {name: _wide(buffer) for name, buffer in student.named_buffers()}
    free = [part.start() for part in trained]
    parameters = [t.requires_grad_() for pair in free for t in pair]
    optimizer, warm = torch.optim.Adam(parameters), max(1, steps // 20)
    rate = 0.0
    for step, batch in enumerate(batches):
        progress("distilling", step, steps)
        with torch.no_grad():
            result, maps = models.teacher(*batch)
        changed = _changed(trained, free, own)
        given, made = functional_call(student, held | changed, tuple(batch))
        wanted = tensors_of(result)
        loss = relative_loss(tensors_of(given), wanted)
        if step == 0:
            rate = RATE * min(_MOST_ERROR, math.sqrt(float(loss.detach()) / 10 / len(wanted)))
        fraction = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * fraction
        optimizer.zero_grad()
        torch.autograd.backward(loss + MAPS * models.loss(made, maps))
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    with torch.no_grad():
        return _changed(trained, free, own)


def _changed(
    trained: Sequence[Directions], free: Sequence[tuple[Tensor, Tensor]], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for part, (v, offset) in zip(trained, free, strict=True):
        part.add_to(changed, own, v, offset)
    return changed


@torch.no_grad()
def _keep(
    student: nn.Module, learned: Mapping[str, Tensor], held_out: Sequence[Row], wanted: Sequence[Output]
) -> None:
    """Write ``learned`` into the student, unless the images kept aside speak against it.

    They do if neither their error as a whole nor what is typical of one of them has fallen: of eight, one
    bad one is most of the whole. (It once undid a training that took test images from .31 to .20.)
    """
    if not all(bool(torch.isfinite(value).all()) for value in learned.values()):
        return
    if not held_out:
        _write(student, learned)
        return

    def error(found: Sequence[Output]) -> float:
        return compare(wanted, found, held_out=True).relative_error

    before = outputs(student, held_out)
    old = {name: student.get_parameter(name).clone() for name in learned}
    _write(student, learned)
    after = outputs(student, held_out)
    if not (error(after) < error(before) or typical_ratio(wanted, before, after) < 1):
        _write(student, old)


def _write(student: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        student.get_parameter(name).copy_(value)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in _HALF else values


def relative_loss(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """``10 ||centred difference||^2 / ||centred target||^2``; logits are centred over the classes."""
    total: Tensor | None = None
    for a, b in zip(given, wanted, strict=True):
        known = torch.isfinite(b)  # a class that can never be chosen has nothing to be learned
        if not bool(known.all()):
            columns = known.flatten(1).all(0) if b.ndim > 1 else known
            kept = b.ndim == 2 and bool((known == columns).all())
            a, b = (t[:, columns] if kept else torch.where(known, t, torch.zeros_like(t)) for t in (a, b))
        logits = b.ndim == 2 and b.shape[1] > 1  # one number for each input is its own mean
        difference, target = a - b, b - b.mean(1 if logits else 0, keepdim=True)
        if logits:
            difference = difference - difference.mean(1, keepdim=True)
        part = 10 * difference.square().sum() / target.square().sum().clamp_min(1e-12)
        total = part if total is None else total + part
    assert total is not None
    return total

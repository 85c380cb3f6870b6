"""Distillation: the converted model learns the original's outputs and inner maps, without labels.

Adam on the coordinates of ``directions``, over images that are moved and blended at random, a cosine
from the first rate to 0. The rate is a share of the error to be repaired: where little is wrong, large
steps would only add noise.

It is looked at on the way, on images kept aside: the best of what was seen stays, and where nothing gets
better it ends early. ``Distilled`` says what became of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from octify.calibrate.distill.directions import Directions, directions
from octify.calibrate.distill.features import Compared, compared
from octify.calibrate.distill.judge import Distilled, Judge
from octify.calibrate.fit.repair import Repaired
from octify.calibrate.inputs.augment import alteration, blended
from octify.calibrate.inputs.images import Images
from octify.calibrate.streams.clock import Clock
from octify.calibrate.streams.execution import out_of_place
from octify.calibrate.streams.sizes import gradient_batch
from octify.compare.loss import relative_loss
from octify.compare.outputs import Output, tensors_of
from octify.passes.rewrite import Rewritten
from octify.progress import Progress
from octify.trace import Traced

BATCH = 32
CLIP = 5.0
RATE = 4e-3  # of an output's root mean square, for each unit of relative error at the start
_MOST_ERROR = 0.4  # beyond it, larger steps lose more than they find
MAPS = 3.0  # weight of the inner maps' loss; 1 to 10 are alike
LOOKS = 8  # on the way, evenly spaced
_TIMED = 3  # steps, from which the time of all is told
_LEAST_STEPS = 24  # fewer are not worth their time
_HALF = (torch.float16, torch.bfloat16)  # whose gradients overflow or vanish: trained in float32


def distill(
    teacher: Traced,
    rewritten: Rewritten,
    repaired: Repaired,
    images: Images,
    reference: Sequence[Output],
    *,
    steps: int,
    seconds: float = math.inf,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Distilled | None:
    """Train the fitted branches of ``rewritten`` in place, in eval mode throughout.

    Parameters
    ----------
    teacher:
        The original, in modules of its own that ``rewritten`` does not share. Models in half precision
        are in float32 afterwards.
    reference:
        The original's ``outputs`` for ``images.held_out``: where the error there is not smaller for the
        training, nothing is changed. Without such images it is kept.
    steps, seconds:
        At most so many steps, and no more than take so long (``Clock``).

    Returns None where there is nothing to train.
    """
    models = compared(teacher.module, rewritten, repaired.sites)
    trained = directions(models.student, repaired.sites, repaired.fits)
    if not trained:
        return None
    if any(parameter.dtype in _HALF for parameter in models.teacher.parameters()):
        models.teacher.float()
    judge, clock = Judge(rewritten.module, images.held_out, reference), Clock(models.student)
    with out_of_place(models.teacher), out_of_place(models.student):
        batches = _batches(images, steps, seed)
        training = Training(models, trained, batches, gradient_batch(teacher), _layout(models, images))
        planned, taken, first = steps, 0, 0.0
        while taken < planned and not judge.hopeless(taken / planned):
            progress("distilling", taken, planned)
            training.step(taken, planned)
            taken += 1
            if taken == 1:
                first = clock.seconds()  # prepares much
            if taken == min(_TIMED, steps):
                each = max(clock.seconds() - first, 1e-9) / max(1, taken - 1)
                planned = _affordable(steps, (seconds - first) / each)
            if planned and (taken % max(1, planned // LOOKS) == 0 or taken == planned):
                judge.look(taken, training.values())
    return judge.kept(taken, planned, clock.seconds())


def _affordable(steps: int, affordable: float) -> int:
    """``steps``, or as many as are affordable; 0 where those are too few to be of use."""
    if affordable >= steps:
        return steps
    return 0 if affordable < _LEAST_STEPS else int(affordable)


@torch.no_grad()
def _layout(models: Compared, images: Images) -> torch.memory_format:
    """Channels last on a CPU, which a depthwise network trains a third faster with, if the models take it.

    Those that view maps as another shape may not.
    """
    first = [x[:1] for x in images.chunks[0]]
    if any(x.ndim != 4 or x.device.type != "cpu" or x.dtype in _HALF for x in first):
        return torch.preserve_format
    try:
        for model in (models.teacher, models.student):
            model(*_laid(first, torch.channels_last))
    except RuntimeError:
        return torch.preserve_format
    return torch.channels_last


def _laid(batch: Sequence[Tensor], layout: torch.memory_format) -> list[Tensor]:
    return [x.to(memory_format=layout) for x in batch]


def _batches(images: Images, steps: int, seed: int) -> Iterator[list[Tensor]]:
    """``steps`` batches, each of images of one size, altered and blended."""
    groups = _by_size(images)
    size = min(BATCH, max(len(group[0]) for group in groups))
    generator, alter = torch.Generator().manual_seed(seed), alteration(images)
    left: list[tuple[list[Tensor], Tensor]] = []
    for _ in range(steps):
        left = left or _epoch(groups, size, generator)
        group, picked = left.pop()
        batch = [x[picked.to(x.device)] for x in group]
        yield blended(alter(batch, generator), generator)


def _by_size(images: Images) -> list[list[Tensor]]:
    """All images of a size together, each input of the model one tensor."""
    by_size: dict[tuple[torch.Size, ...], list[tuple[Tensor, ...]]] = {}
    for chunk in images.chunks:
        by_size.setdefault(tuple(x.shape[1:] for x in chunk), []).append(chunk)
    return [[_wide(torch.cat(parts)) for parts in zip(*chunks, strict=True)] for chunks in by_size.values()]


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


class Training:
    """Adam on the directions' coordinates, step by step; ``piece`` images have room at a time."""

    def __init__(
        self,
        models: Compared,
        trained: Sequence[Directions],
        batches: Iterator[list[Tensor]],
        piece: int,
        layout: torch.memory_format,
    ) -> None:
        self.models, self.trained, self.batches = models, trained, batches
        self.piece, self.layout = piece, layout
        student = models.student
        self.own = {name: _wide(parameter.detach().clone()) for name, parameter in student.named_parameters()}
        self.held = self.own | {name: _wide(buffer) for name, buffer in student.named_buffers()}
        self.free = [part.start() for part in trained]
        self.parameters = [t.requires_grad_() for pair in self.free for t in pair]
        self.optimizer = torch.optim.Adam(self.parameters)
        self.rate = 0.0

    @torch.enable_grad()
    def step(self, step: int, steps: int) -> None:
        """Step number ``step`` of ``steps``."""
        batch = _laid(next(self.batches), self.layout)
        parts = list(zip(*(torch.split(x, self.piece) for x in batch), strict=True))
        self.optimizer.zero_grad()
        changed = _changed(self.trained, self.free, self.own)
        # Leaves of their own, so that what they are made of is followed back once, not for every part.
        leaves = {name: value.detach().requires_grad_() for name, value in changed.items()}
        error = sum(self._add_gradients(part, leaves, len(part[0]) / len(batch[0])) for part in parts)
        used = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        torch.autograd.backward([changed[name] for name in used], list(used.values()))
        if step == 0:
            self.rate = RATE * min(_MOST_ERROR, math.sqrt(error / 10))
        warm = max(1, steps // 20)
        fraction = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        self.optimizer.param_groups[0]["lr"] = self.rate * fraction
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()

    def _add_gradients(self, batch: Sequence[Tensor], changed: Mapping[str, Tensor], share: float) -> float:
        """Add the gradients of a part of the step's batch; return its mean loss times its ``share``."""
        with torch.no_grad():
            result, maps = self.models.teacher(*batch)
        student_result, student_maps = functional_call(
            self.models.student, {**self.held, **changed}, tuple(batch)
        )
        targets = tensors_of(result)
        loss = relative_loss(tensors_of(student_result), targets)
        torch.autograd.backward(share * (loss + MAPS * self.models.loss(student_maps, maps)))
        return share * float(loss.detach()) / len(targets)

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The student's parameters that training changes, as they are now, by name."""
        return _changed(self.trained, self.free, self.own)


def _changed(
    trained: Sequence[Directions], free: Sequence[tuple[Tensor, Tensor]], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for part, (v, offset) in zip(trained, free, strict=True):
        part.add_to(changed, own, v, offset)
    return changed


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in _HALF else values

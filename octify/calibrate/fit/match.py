"""BatchNorm statistics, the lightest repair: every norm's output gets the original's mean and deviation.

Both are those of the same images, so nothing depends on where these come from: statistics that were
estimated anew on images of another contrast would change the network where nothing was converted. With m and
v the running statistics of a norm, and (a, s) and (b, t) the mean and variance of what it reads in the
original and in the converted network, its new statistics are

    v' + eps = (v + eps) t / s        m' = b - (a - m) sqrt(t / s)

A norm whose input is the original's is left alone. A low branch gets the deviation of the original's whole
map, not of its 2x2 means: an activation of those would have too low a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from octify.calibrate.inputs.images import count_of
from octify.calibrate.streams.chunks import Chunk
from octify.calibrate.streams.execution import Stream, for_reading, out_of_place
from octify.calibrate.streams.store import Store
from octify.layout.channels import Mask
from octify.nn import OctaveChannelwise
from octify.nn.views import to_map
from octify.passes.rewrite import Rewritten
from octify.trace import Traced
from octify.trace.batchnorm import is_affine_norm


@dataclass
class _Moments:
    """Sums over positions, by channel, in double precision."""

    count: int = 0
    total: Tensor | float = field(default=0.0, repr=False)
    squares: Tensor | float = field(default=0.0, repr=False)

    def add(self, x: Tensor) -> None:
        """Values (N, C, *size)."""
        flat = x.double().movedim(1, 0).flatten(1)
        self.count += flat.shape[1]
        self.total = self.total + flat.sum(1)
        self.squares = self.squares + flat.square().sum(1)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total) / self.count

    @property
    def variance(self) -> Tensor:
        return (torch.as_tensor(self.squares) / self.count - self.mean.square()).clamp_min(0)


@torch.no_grad()
def match_norms(traced: Traced, rewritten: Rewritten, chunks: Sequence[Chunk]) -> int:
    """Change the running statistics of norms of ``rewritten``, in place and in eval mode; return how many.

    ``traced`` is the original, in modules of its own that ``rewritten`` does not share.

    The statistics that were there count as one image more: an image's own say too little of others'. Norms
    that are called more than once are left alone.
    """
    share = 1 / (1 + count_of(chunks))
    student_module, teacher_module = rewritten.module.eval(), traced.module
    changed = 0
    with out_of_place(student_module), for_reading(teacher_module), Store() as store:
        teacher = Stream(traced.module.graph, teacher_module, chunks, store)
        student = Stream(student_module.graph, student_module, chunks, store)
        for node, call in _norms(traced, rewritten):
            changed += _matched(rewritten, node, call, teacher, student, share)
    return changed


def _norms(traced: Traced, rewritten: Rewritten) -> list[tuple[fx.Node, fx.Node]]:
    """The calls of norms in the original's graph, in order, and in the converted one."""
    calls: dict[str, list[fx.Node]] = {}
    for call in rewritten.module.graph.find_nodes(op="call_module"):
        calls.setdefault(str(call.target), []).append(call)
    pairs = []
    for node in traced.module.graph.find_nodes(op="call_module"):
        module, its = traced.submodule(node), calls.get(str(node.target), [])
        if module is not None and is_affine_norm(module) and len(its) == len(node.all_input_nodes) == 1:
            pairs.append((node, its[0]))
    return pairs


def _matched(
    rewritten: Rewritten, node: fx.Node, call: fx.Node, teacher: Stream, student: Stream, share: float
) -> int:
    """Match the branches of one norm; how many were changed."""
    module = rewritten.module.get_submodule(str(call.target))
    (source,) = node.all_input_nodes
    layout, mask = rewritten.resolved.layout, rewritten.resolved.mask(node.name)
    octave = isinstance(module, OctaveChannelwise)
    pairs: list[tuple[nn.Module | None, bool | None]] = [(module, None)]
    if isinstance(module, OctaveChannelwise):
        pairs = [(module.high, False), (module.low, True)]
    operands = [arg if isinstance(arg, fx.Node) else None for arg in (*call.args, None)][: len(pairs)]
    for operand in operands:
        if operand is not None:
            student.hold(operand)
    teacher.hold(source)
    changed = 0
    for (norm, low), operand in zip(pairs, operands, strict=True):
        if norm is None or operand is None:
            continue
        teacher_moments, student_moments = _Moments(), _Moments()
        same = True
        for theirs, ours in zip(teacher.values(source), student.values(operand), strict=True):
            reference = _branch(to_map(theirs, layout.roles(source.name, theirs.shape)), mask, low)
            value = ours if octave else to_map(ours, layout.roles(source.name, ours.shape))
            same = same and torch.equal(reference, value)
            teacher_moments.add(reference)
            student_moments.add(value)
        if not same:
            _write(norm, teacher_moments, student_moments, share)
            changed += 1
    for operand in operands:
        if operand is not None:
            student.release(operand)
    teacher.release(source)
    return changed


def _branch(x: Tensor, mask: Mask | None, low: bool | None) -> Tensor:
    """The channels of a dense map (N, C, *size) that a branch holds; all, where there are no branches."""
    if low is None or mask is None:
        return x
    chosen = torch.as_tensor(mask if low else ~mask, device=x.device).nonzero()[:, 0]
    return x.index_select(1, chosen)


def _write(norm: nn.Module, teacher_moments: _Moments, student_moments: _Moments, share: float) -> None:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    eps = float(norm.eps)  # type: ignore[arg-type]
    usable = (teacher_moments.variance > 0) & (student_moments.variance > 0)
    ratio = torch.where(usable, student_moments.variance / teacher_moments.variance.clamp_min(1e-300), 1.0)
    new_mean = student_moments.mean - (teacher_moments.mean - mean.double()) * ratio.sqrt()
    new_variance = ((variance.double() + eps) * ratio - eps).clamp_min(0)
    mean.copy_(torch.lerp(new_mean, mean.double(), share))
    variance.copy_(torch.lerp(new_variance, variance.double(), share))

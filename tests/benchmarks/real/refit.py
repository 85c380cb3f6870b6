"""What the peers are repaired with: least squares, layer after layer, and matched BatchNorm statistics.

Both networks run in lockstep over the calibration images, as in octify's own repair. For every convolution
and linear layer of the cheaper network, rows are what it reads there, targets what the original gives at
the place (the channels that are left); a BatchNorm behind it belongs to the layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octify.calibrate.streams.execution import Stream, out_of_place
from octify.calibrate.streams.store import Store
from octify.trace import trace

ROWS = 30_000
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the mean diagonal; chosen on every fourth image
_CHUNK = 16


@torch.no_grad()
def matched(original: nn.Module, pruned: nn.Module, kept: Mapping[str, Tensor], images: Tensor) -> None:
    """Give every BatchNorm's output the original's mean and deviation, in place."""
    for theirs, ours, left, norm in _lockstep(original, pruned, kept, images, _BatchNorm):
        assert isinstance(norm, _BatchNorm)
        wanted = [_moments([x[:, left] for x in theirs]), _moments(ours)]
        (a, s), (b, t) = wanted
        assert norm.running_mean is not None and norm.running_var is not None
        ratio = torch.where((s > 0) & (t > 0), t / s.clamp_min(1e-30), 1.0)
        norm.running_mean.copy_(b - (a - norm.running_mean) * ratio.sqrt())
        norm.running_var.copy_((norm.running_var + norm.eps) * ratio - norm.eps)


@torch.no_grad()
def refitted(original: nn.Module, pruned: nn.Module, kept: Mapping[str, Tensor], images: Tensor) -> None:
    """Fit every convolution and linear layer of ``pruned`` to the original's outputs, in place."""
    generator = torch.Generator().manual_seed(0)
    for theirs, ours, left, layer in _lockstep(original, pruned, kept, images, (nn.Conv2d, nn.Linear)):
        fit(layer, ours, [y[:, left] for y in theirs], generator)


def _lockstep(
    original: nn.Module,
    pruned: nn.Module,
    kept: Mapping[str, Tensor],
    images: Tensor,
    kinds: type | tuple[type, ...],
) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor], Tensor, nn.Module]]:
    """For each layer of some kinds, in order: the original's outputs (of BatchNorms: inputs), what the other
    layer reads, the channels that are left, and the layer."""
    example = images[:1]
    one, other = (trace(copy.deepcopy(m) if m is original else m, example) for m in (original, pruned))
    chunks = [(x,) for x in images.split(_CHUNK)]
    norms = kinds is _BatchNorm
    with out_of_place(one.module), out_of_place(other.module), Store() as store:
        teacher = Stream(one.module.graph, one.module.eval(), chunks, store)
        student = Stream(other.module.graph, other.module.eval(), chunks, store)
        places = {str(n.target): n for n in other.module.graph.find_nodes(op="call_module")}
        for node in one.module.graph.find_nodes(op="call_module"):
            path = str(node.target)
            layer = pruned.get_submodule(path)
            if path not in places or not isinstance(other.module.get_submodule(path), kinds):
                continue
            mine, source = node.args[0] if norms else node, places[path].args[0]
            assert isinstance(mine, fx.Node) and isinstance(source, fx.Node)
            teacher.hold(mine)
            student.hold(source)
            left = kept.get(path)
            theirs, ours = teacher.values(mine), student.values(source)
            count = theirs[0].shape[1]
            yield theirs, ours, torch.arange(count) if left is None else left, layer
            if layer is not other.module.get_submodule(path):  # the tracer's copy runs
                other.module.get_submodule(path).load_state_dict(layer.state_dict(), strict=False)
            teacher.release(mine)
            student.release(source)


def fit(
    layer: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Tensor], generator: torch.Generator
) -> None:
    """Fit one layer by ridge regression toward its weights, the ridge chosen on every fourth image."""
    x, y, image = rows(layer, inputs, targets, generator)
    weight = layer.get_parameter("weight")
    groups = int(getattr(layer, "groups", 1))
    start = weight.reshape(groups, len(weight) // groups, -1).mT.double()
    bias = layer.bias
    fits: list[Tensor] = []
    unseen = image % 4 == 3
    for group in range(groups):
        its = torch.cat([x[:, group].double(), torch.ones(len(x), 1, dtype=torch.double)], 1)
        wanted = y.reshape(len(y), groups, -1)[:, group].double()
        own = torch.cat([start[group], torch.zeros(1, start.shape[2], dtype=torch.double)])
        if isinstance(bias, Tensor):
            own[-1] = bias.reshape(groups, -1)[group].double()
        fits.append(_ridge(its, wanted, own, unseen, isinstance(bias, Tensor)))
    found = torch.stack(fits)
    weight.copy_(found[:, :-1].mT.reshape(weight.shape).to(weight))
    if isinstance(bias, Tensor):
        bias.copy_(found[:, -1].flatten().to(bias))


def _ridge(x: Tensor, y: Tensor, start: Tensor, unseen: Tensor, biased: bool) -> Tensor:
    if not biased:
        x, start = x[:, :-1], start[:-1]
    best, least = start, float((y - x @ start)[unseen].square().sum())
    chosen: float | None = None

    def solved(of: Tensor, ridge: float) -> Tensor:
        part, rest = x[of], (y - x @ start)[of]
        gram = part.T @ part
        penalty = gram.diagonal()[: len(gram) - biased].mean().clamp_min(1e-12) * ridge
        gram.diagonal()[: len(gram) - biased].add_(penalty)
        gram.diagonal().add_(1e-9 * gram.diagonal().mean() + 1e-12)
        return start + torch.cholesky_solve(part.T @ rest, torch.linalg.cholesky(gram))

    for ridge in RIDGES:
        found = solved(~unseen, ridge)
        error = float((y - x @ found)[unseen].square().sum())
        if error < least:
            best, least, chosen = found, error, ridge
    if chosen is not None:
        best = solved(torch.ones_like(unseen), chosen)
    return best if biased else torch.cat([best, best.new_zeros(1, best.shape[1])])


def rows(
    layer: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Sampled positions: what a layer reads (R, groups, unknowns), targets (R, O), the image of each."""
    xs, ys, images, before = [], [], [], 0
    count = sum(len(x) for x in inputs)
    for x, y in zip(inputs, targets, strict=True):
        if isinstance(layer, nn.Linear):
            taken, wanted = x.reshape(-1, 1, x.shape[-1]), y.reshape(-1, y.shape[-1])
            image = torch.arange(len(x)).repeat_interleave(len(taken) // len(x))
        else:
            assert isinstance(layer, nn.Conv2d)
            each = max(1, math.ceil(ROWS / count))
            taken, wanted, image = _patches(layer, x, y, each, generator)
        xs.append(taken)
        ys.append(wanted)
        images.append(image + before)
        before += len(x)
    return torch.cat(xs), torch.cat(ys), torch.cat(images)


def _patches(
    conv: nn.Conv2d, x: Tensor, y: Tensor, each: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    padding = _padding(conv, x, y)
    x = F.pad(x, padding)
    height, width = y.shape[2:]
    kernel, stride, spread = conv.kernel_size, conv.stride, conv.dilation
    places = torch.randperm(height * width, generator=generator)[:each]
    top, left = places // width * stride[0], places % width * stride[1]
    taps = [
        x[:, :, top + i * spread[0], left + j * spread[1]] for i in range(kernel[0]) for j in range(kernel[1])
    ]
    read = torch.stack(taps, -1)  # (N, C, R, taps)
    n, channels, r, k = read.shape
    read = read.permute(0, 2, 1, 3).reshape(n * r, conv.groups, channels // conv.groups * k)
    wanted = y.flatten(2)[:, :, places].movedim(1, 2).reshape(n * r, -1)
    return read, wanted, torch.arange(n).repeat_interleave(r)


def _padding(conv: nn.Conv2d, x: Tensor, y: Tensor) -> list[int]:
    """Left, right, top, bottom: what the convolution pads with, its own padding or TensorFlow's ("same")."""
    found: list[int] = []
    own = conv.padding if isinstance(conv.padding, tuple) else (0, 0)
    for axis in (1, 0):
        reach = (y.shape[2 + axis] - 1) * conv.stride[axis] + (conv.kernel_size[axis] - 1) * conv.dilation[
            axis
        ]
        lacking = max(0, reach + 1 - x.shape[2 + axis])
        before = int(own[axis]) if own[axis] else lacking // 2
        found += [before, max(0, lacking - before)]
    return found


def _moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    flat = torch.cat([x.movedim(1, 0).flatten(1) for x in values], 1)
    return flat.mean(1), flat.var(1, correction=0)

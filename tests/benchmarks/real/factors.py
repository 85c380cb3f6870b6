"""Low rank factors: a 1x1 convolution as two, another as k x 1 and 1 x k, refitted by least squares.

The first factor of a pair is found so that the pair gives the original's outputs with the least error: the
best outputs of a linear map of rank r are those of the full least squares solution, projected on its r
strongest directions. The second is refitted to what the first one gives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from octify.calibrate.streams.execution import Stream, out_of_place
from octify.calibrate.streams.store import Store
from octify.trace import trace
from tests.benchmarks.accuracy.peers import macs
from tests.benchmarks.real.refit import fit, rows

_CHUNK = 16
_LEAST = 16  # channels on either side
_BISECTIONS = 10


@torch.no_grad()
def factored(model: nn.Module, images: Tensor, share: float) -> tuple[nn.Module, float]:
    """A copy whose convolutions are factored to a share of the MACs, all by as much."""
    whole, example = macs(model, images[:1]), images[:1]
    low, high = 0.02, 1.0
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        low, high = (ratio, high) if macs(_split(model, ratio), example) / whole < share else (low, ratio)
    made = _split(model, low)
    found = macs(made, example) / whole
    if found > 1.1 * share:
        raise NotImplementedError(f"with {share:.3f} of the MACs it leaves nothing ({found:.3f})")
    _fit(model, made, images)
    return made.eval(), found


class Pair(nn.Sequential):
    """Two factors of a convolution."""


def _split(model: nn.Module, ratio: float) -> nn.Module:
    """A copy, its convolutions in two factors with ``ratio`` of their MACs."""
    made = copy.deepcopy(model)
    for name, conv in list(made.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or conv.in_channels < _LEAST:
            continue
        if conv.out_channels < _LEAST or set(conv.dilation) != {1}:
            continue
        if type(conv).forward is not nn.Conv2d.forward and set(conv.kernel_size) != {1}:
            continue  # pads in a way of its own
        (h, w), wide, narrow = conv.kernel_size, conv.in_channels, conv.out_channels
        each = wide * h * conv.stride[1] + narrow * w
        rank = math.floor(ratio * wide * narrow * h * w / each)
        if rank >= 1 and rank * each < wide * narrow * h * w:
            parent, _, last = name.rpartition(".")
            setattr(made.get_submodule(parent), last, _pair(conv, rank))
    return made


def _pair(conv: nn.Conv2d, rank: int) -> Pair:
    (h, w), (sh, sw) = conv.kernel_size, conv.stride
    ph, pw = conv.padding if isinstance(conv.padding, tuple) else (0, 0)
    first = nn.Conv2d(conv.in_channels, rank, (h, 1), (sh, 1), (int(ph), 0), bias=False)
    second = nn.Conv2d(rank, conv.out_channels, (1, w), (1, sw), (0, int(pw)), bias=conv.bias is not None)
    return Pair(first, second)


def _fit(model: nn.Module, made: nn.Module, images: Tensor) -> None:
    """Fit all layers of ``made``, which are traced as the original's are."""
    generator = torch.Generator().manual_seed(0)
    one = trace(copy.deepcopy(model), images[:1])
    chunks = [(x,) for x in images.split(_CHUNK)]
    student_module = copy.deepcopy(one.module).eval()
    for name, module in made.named_modules():
        if isinstance(module, Pair):
            parent, _, last = name.rpartition(".")
            setattr(student_module.get_submodule(parent), last, module)
    with out_of_place(one.module), out_of_place(student_module), Store() as store:
        teacher = Stream(one.module.graph, one.module.eval(), chunks, store)
        student = Stream(one.module.graph, student_module, chunks, store)
        for node in one.module.graph.find_nodes(op="call_module"):
            path = str(node.target)
            layer, conv = student_module.get_submodule(path), one.module.get_submodule(path)
            if not isinstance(conv, (nn.Conv2d, nn.Linear)):
                continue
            source = node.args[0]
            teacher.hold(node)
            student.hold(source)
            wanted, given = teacher.values(node), student.values(source)
            if isinstance(layer, Pair):
                assert isinstance(conv, nn.Conv2d)
                _fit_pair(conv, layer, given, wanted, generator)
            else:
                fit(layer, given, wanted, generator)
                made.get_submodule(path).load_state_dict(layer.state_dict(), strict=False)
            teacher.release(node)
            student.release(source)


def _fit_pair(
    conv: nn.Conv2d,
    pair: Pair,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    generator: torch.Generator,
) -> None:
    first, second = pair[0], pair[1]
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    whole = copy.deepcopy(conv)
    fit(whole, inputs, targets, generator)
    x, _, _ = rows(whole, inputs, targets, generator)
    (h, w), rank = conv.kernel_size, first.out_channels
    if (h, w) == (1, 1):
        kernel = whole.weight[:, :, 0, 0].double()
        outputs = x[:, 0].double() @ kernel.T
        outputs = outputs - outputs.mean(0)
        _, vectors = torch.linalg.eigh(outputs.T @ outputs)
        basis = vectors[:, -rank:]
        first.weight.copy_((basis.T @ kernel)[:, :, None, None].to(first.weight))
    else:
        # As if neighbouring taps were independent: the kernel as a matrix from (inputs, rows) to (outputs,
        # columns), its inputs weighted by their root mean squares.
        size = x[:, 0].reshape(len(x), conv.in_channels, h * w).square().mean((0, 2)).sqrt().clamp_min(1e-6)
        matrix = (whole.weight * size[:, None, None]).permute(1, 2, 0, 3).reshape(conv.in_channels * h, -1)
        left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
        basis = left[:, :rank].reshape(conv.in_channels, h, rank) / size[:, None, None]
        first.weight.copy_(basis.permute(2, 0, 1)[..., None])
    middle = [first(x) for x in inputs]
    fit(second, middle, targets, generator)
    assert all(p.isfinite().all() for p in pair.parameters())

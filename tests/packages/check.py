"""What must be true of a package's model: one graph, right at several sizes, with convolutions octave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import octify
from octify.trace import trace
from tests.oracle import noise
from tests.packages.catalogue import Entry

SIZE = (1, 128, 128)
OTHERS = ((2, 128, 128), (1, 160, 192), (2, 192, 128))  # the batch, and height and width


@dataclass(frozen=True)
class Row:
    """A line of the table.

    shares:
        Of the convolutions' MACs: octave on both sides, on one side, on none.
    """

    entry: Entry
    one_graph: bool
    shares: tuple[float, float, float]
    macs: float
    warnings: tuple[str, ...]


def made(entry: Entry) -> nn.Module:
    """The model with seeded weights, in eval mode and float64."""
    torch.manual_seed(0)
    return entry.build().double().eval()


def example(entry: Entry, size: tuple[int, int, int] = SIZE) -> Tensor:
    """An input (batch, channels, height, width)."""
    return noise(size[0], entry.channels, *size[1:], seed=size[1])


def measured(entry: Entry) -> Row:
    """Convert at alpha .5 with the default rules, and look at what became octave."""
    model, x = made(entry), example(entry)
    result = octify.convert(model, x, alpha=0.5)
    macs: dict[str, int] = {}
    for layer in result.report.layers:
        macs[layer.path] = macs.get(layer.path, 0) + layer.macs_before
    sides = {conv.path: (bool(conv.low_in), bool(conv.low_out)) for conv in result.plan.convs}
    total = sum(macs.get(path, 0) for path in sides)
    count = [0, 0, 0]
    for path, (low_in, low_out) in sides.items():
        count[2 - low_in - low_out] += macs.get(path, 0)
    both, one, none = (n / total for n in count)
    totals = result.report.totals
    return Row(
        entry,
        trace(model, x).parts is None,
        (both, one, none),
        totals.macs_after / totals.macs_before,
        tuple(result.report.warnings),
    )


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, whatever its form."""
    if isinstance(result, Mapping):
        result = list(result.values())
    leaves = pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def check_whole(entry: Entry) -> None:
    """One graph without opaque leaves, which computes what the model computes at several sizes."""
    model = made(entry)
    traced = trace(model, example(entry))
    assert traced.parts is None and traced.opaque == ()
    for size in (SIZE, *OTHERS):
        x = example(entry, size)
        with torch.no_grad():
            got, wanted = tensors(traced.module(x)), tensors(model(x))
        assert len(got) == len(wanted) > 0
        for ours, theirs in zip(got, wanted, strict=True):
            assert torch.equal(ours, theirs)


def check_converted(entry: Entry) -> None:
    """With exact kernels the converted model is the projected reference."""
    model, x = made(entry), example(entry)
    result = octify.convert(model, x, alpha=0.5, kernels="exact")
    reference = octify.reference(model, result.plan, x)
    with torch.no_grad():
        got, wanted = tensors(result.model(x)), tensors(reference(x))
    for ours, theirs in zip(got, wanted, strict=True):
        scale = float(theirs.abs().max()) or 1.0
        assert float((ours - theirs).abs().max()) / scale < 1e-8


def check_exported(entry: Entry, folder: Path) -> None:
    """It can be calibrated, and its ONNX file was compared with it."""
    torch.manual_seed(0)
    model = entry.build().eval()
    x = example(entry).float()
    images = [example(entry, (4, 128, 128)).float() + i for i in range(2)]
    result = octify.convert(model, x, alpha=0.25, calibration=images, effort="norm")
    exported = octify.export_onnx(result.model, x, folder / "model.onnx")
    assert exported.max_abs_error < 1e-2

"""Exchange between high and low channels: which of the four paths a convolution of octave values has.

``"full"`` is all four. ``"spatial"`` leaves out both paths between the resolutions, ``"high-to-low"`` the one
from low to high, each in 1x1 convolutions (and linear layers of maps) whose channels all keep a use.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from octify.kernels.taps import Branch, Exchange, PathName
from octify.nn.channels import split_indices
from octify.nn.groups import Grouped, needs_no_exchange, pointwise_sizes


def has_path(exchange: Exchange, name: PathName) -> bool:
    """Return whether a convolution of this ``exchange`` may have the path ``name``."""
    if exchange == "spatial":
        return name.keeps_resolution
    return exchange == "full" or name is not PathName.LOW_TO_HIGH


def sources(exchange: Exchange, target: Branch) -> tuple[Branch, ...]:
    """Branches that the outputs of ``target`` are computed from."""
    return tuple(n.source for n in PathName if n.target == target and has_path(exchange, n))


def exchange_of(
    layer: nn.Module | None, requested: Exchange, low_in: Sequence[int], low_out: Sequence[int]
) -> Exchange:
    """Exchange that ``layer`` has between these low channels: ``requested`` where possible, else full."""
    possible = {"spatial": needs_no_exchange, "high-to-low": needs_no_low_to_high}
    if layer is None or requested not in possible:
        return "full"
    return requested if possible[requested](layer, low_in, low_out) else "full"


def needs_no_low_to_high(layer: nn.Module, low_in: Sequence[int], low_out: Sequence[int]) -> bool:
    """Return whether a layer needs no low-to-high path (``exchange = "high-to-low"``).

    It must be a 1x1 convolution, or a linear layer, between octave values. In every group high outputs still
    have high inputs then, and low inputs are still read by low outputs.
    """
    sizes = pointwise_sizes(layer)
    if sizes is None or not low_in or not low_out:
        return False
    groups, inputs, outputs = sizes
    (high_in, low), (high_out, low_to) = split_indices(inputs, low_in), split_indices(outputs, low_out)
    high_runs = Grouped.between(high_in, inputs, high_out, outputs, groups).runs
    low_runs = Grouped.between(low, inputs, low_to, outputs, groups).runs
    writing = [run for run in high_runs if run.outputs]
    return bool(writing) and all(run.inputs for run in writing) and all(run.outputs for run in low_runs)

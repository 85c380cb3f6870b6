"""Choices of low channels among groups of alternatives, and plans with other choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from octify.layout.channels import ConvNode, Ids, Layout, Mask, indices, mask_of
from octify.passes.resolve import Planned, agreeing
from octify.plan import ConvPlan, Plan
from octify.planning.choose import cells
from octify.planning.portions import portions


def choices(layout: Layout) -> list[list[Ids]]:
    """For every coupled set, the groups of channels within which one may be low instead of another."""
    whole = cells(layout)
    parted = portions(layout, whole)
    return [[part for cell in members for part in parted.get(int(cell[0]), [cell])] for members in whole]


def chosen(layout: Layout, low: Mask, cost: np.ndarray) -> Mask:
    """Choose as many low channels of every choice as ``low`` has: those of the lowest ``cost`` (by class)."""
    result = np.zeros_like(low)
    for members in choices(layout):
        for cell in members:
            count = int(low[cell].sum())
            order = np.argsort(cost[cell], kind="stable")
            result[cell[order[:count]]] = True
    return result


def with_channels(plan: Plan, layout: Layout, low: Mask) -> Planned:
    """``plan`` with other low channels (by class), as many in every convolution."""
    calls: Mapping[str, ConvNode] = {conv.path: conv for conv in layout.convs}

    def entry(conv: ConvPlan) -> ConvPlan:
        call = calls.get(conv.path)
        if call is None or not conv.converted:
            return conv
        return replace(
            conv,
            low_in=indices(mask_of(call.ids_in, low)) if conv.low_in else (),
            low_out=indices(mask_of(call.ids_out, low)) if conv.low_out else (),
        )

    other = replace(plan, convs=tuple(entry(conv) for conv in plan.convs))
    return Planned(other, agreeing(other, layout, low))

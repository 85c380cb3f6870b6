"""From a plan's convolutions to the low channels of every value of the graph."""

from __future__ import annotations

import numpy as np
from torch.nn.modules.conv import _ConvNd

from octify.coupling import couple
from octify.errors import PlanError
from octify.layout import ConvNode, Ids, Layout, Mask, Resolved, mask_of
from octify.nn.groups import refuse_scattered
from octify.ops.linear import channels_of
from octify.plan.consistent import require_inputs, require_places, require_sound
from octify.plan.model import ConvPlan, Plan
from octify.trace import Traced


def resolve(traced: Traced, plan: Plan) -> Resolved:
    """Work out every value's low channels.

    Raises PlanError when the plan is for another model, or when convolutions that the graph
    ties together (a residual add, a depthwise convolution) disagree.
    """
    require_sound(plan)
    _check_fits(traced, plan)
    dense = frozenset(conv.path for conv in plan.convs if not conv.low_out)
    untouched = {conv.path: conv.reason or "the plan leaves it" for conv in plan.convs if not conv.converted}
    layout = couple(traced, dense, untouched)
    require_places(plan, layout, traced)
    low = np.zeros(layout.classes, dtype=bool)
    for conv in layout.convs:
        low[_chosen(conv.ids_out, plan.conv(conv.path).low_out)] = True
    for conv in layout.convs:
        _check(conv, plan.conv(conv.path), layout, low)
        require_inputs(conv, plan.conv(conv.path), layout, low)
    return Resolved(layout, low)


def _chosen(ids: Ids, low: tuple[int, ...]) -> Ids:
    chosen = ids[list(low)] if low else ids[:0]
    return chosen[chosen >= 0]


def _check_fits(traced: Traced, plan: Plan) -> None:
    modules = dict(traced._modules)
    for conv in plan.convs:
        module = modules.get(conv.path)
        sizes = channels_of(module)
        if sizes != (conv.in_channels, conv.out_channels):
            found = "no such module" if module is None else f"{type(module).__name__} with channels {sizes}"
            raise PlanError(
                "the plan does not fit this model",
                where=conv.path,
                why=f"the plan has a convolution of {conv.in_channels} to {conv.out_channels} channels, "
                f"the model has {found}",
                hint="use the model the plan was made for",
            )
        if isinstance(module, _ConvNd):
            refuse_scattered(module, conv.low_in, conv.low_out, conv.path)


def _check(conv: ConvNode, planned: ConvPlan, layout: Layout, low: Mask) -> None:
    mask = mask_of(conv.ids_out, low)
    have = () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))
    if have == planned.low_out:
        return
    others = sorted(
        {
            other.path
            for other in layout.convs
            if other.path != conv.path and np.intersect1d(other.ids_out, conv.ids_out[conv.ids_out >= 0]).size
        }
    )
    raise PlanError(
        f"{conv.path}: its low output channels contradict other convolutions",
        where=", ".join(others[:6]) or None,
        why="the graph ties their channels together (a residual add or a depthwise convolution)"
        if others
        else "its input's low channels pass through it, or it cannot have an octave output",
        hint="give tied convolutions the same low_out",
    )

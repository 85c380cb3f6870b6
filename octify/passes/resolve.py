"""Resolution of a plan's convolutions to the low channels of every value of the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from octify.compat import ConvNd
from octify.errors import PlanError
from octify.layout.channels import DENSE, ConvNode, Ids, Layout, Mask, Resolved, indices, mask_of
from octify.nn.groups import refuse_scattered
from octify.ops.linear import channels_of
from octify.passes.consistent import require_inputs, require_places, require_sound
from octify.passes.couple import couple
from octify.plan import ConvPlan, Plan
from octify.trace import Traced


@dataclass(frozen=True)
class Planned:
    """A plan, and the low channels of every value under it where planning knows them already."""

    plan: Plan
    resolved: Resolved | None = None

    def on(self, traced: Traced) -> Resolved:
        """Low channels of every value of ``traced``, worked out where planning does not know them."""
        return self.resolved or resolve(traced, self.plan)


def agreeing(plan: Plan, layout: Layout, low: Mask) -> Resolved | None:
    """``layout`` under ``plan``, if coupling again as ``resolve`` does could change nothing; else None.

    ``resolve`` keeps the convolutions from the coupling that the plan leaves dense. Where those have no
    coupled channel in ``layout`` anyway, it finds the same.
    """
    for conv in layout.convs:
        planned = plan.conv(conv.path)
        sides = ((conv.ids_in, planned.low_in), (conv.ids_out, planned.low_out))
        for ids, channels in sides:
            if indices(mask_of(ids, low)) != channels or (not channels and bool((ids != DENSE).any())):
                return None
    return Resolved(layout, low)


def resolve(traced: Traced, plan: Plan) -> Resolved:
    """Work out every value's low channels.

    Raises PlanError when the plan is for another model, or when convolutions that the graph
    ties together (a residual add, a depthwise convolution) disagree.
    """
    require_sound(plan)
    plan = replace(plan, convs=tuple(conv for conv in plan.convs if not traced.is_elsewhere(conv.path)))
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
            actual = "no such module" if module is None else f"{type(module).__name__} with channels {sizes}"
            raise PlanError(
                "the plan does not fit this model",
                where=conv.path,
                why=f"the plan has a convolution of {conv.in_channels} to {conv.out_channels} channels, "
                f"the model has {actual}",
                hint="use the model the plan was made for",
            )
        if isinstance(module, ConvNd):
            refuse_scattered(module, conv.low_in, conv.low_out, conv.path)


def _check(conv: ConvNode, planned: ConvPlan, layout: Layout, low: Mask) -> None:
    if indices(mask_of(conv.ids_out, low)) == planned.low_out:
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

"""Consistency checks of a plan, which may contradict itself if it was edited or generated.

A single entry must not hold numbers that are not channels of its convolution, nor unknown words. A
convolution must not read other low channels than its input has, nor have low channels where the graph has
none. It may always read its input dense (``low_in`` empty).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from octify.checks.words import require_known
from octify.errors import PlanError
from octify.kernels.taps import Exchange, Scheme
from octify.layout.channels import ConvNode, Layout, Mask, mask_of
from octify.plan import ConvPlan, Plan
from octify.trace import Opaque, Traced

_SHOWN = 8


def require_sound(plan: Plan) -> None:
    """Raise PlanError for an entry that is invalid for every model."""
    require_known("kernels", plan.kernels, Scheme, "the plan")
    for path, count in Counter(conv.path for conv in plan.convs).items():
        if count > 1:
            raise PlanError(f"{path} has {count} entries", hint="keep one of them")
    for conv in plan.convs:
        require_known("kernels", conv.kernels, Scheme, conv.path)
        require_known("exchange", conv.exchange, Exchange, conv.path)
        _require_channels(conv, "low_in", conv.low_in, conv.in_channels)
        _require_channels(conv, "low_out", conv.low_out, conv.out_channels)


def leaves_of(plan: Plan, model: nn.Module) -> Mapping[str, Opaque]:
    """The modules of ``model`` that ``plan`` runs as they are, by path; PlanError for one that it lacks."""
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    lost = next((leaf.path for leaf in plan.leaves if leaf.path not in paths), None)
    if lost is not None:
        raise PlanError(
            f"the plan runs {lost} as it is, and the model has no such module",
            where=lost,
            hint="make a new plan for this model",
        )
    return {leaf.path: leaf for leaf in plan.leaves}


def _require_channels(conv: ConvPlan, side: str, low: Sequence[int], channels: int) -> None:
    whole = all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c < channels for c in low)
    if not whole or list(low) != sorted(set(low)):
        raise PlanError(
            f"{conv.path}: {side} is not an ascending list of channels",
            where=conv.path,
            why=f"it is {_some(low)}; the channels are 0 to {channels - 1}, each at most once",
            hint=f"correct {side} of {conv.path} in the plan",
        )


def require_places(plan: Plan, layout: Layout, traced: Traced) -> None:
    """Raise PlanError for low channels of a convolution that the graph leaves as it is."""
    taken = {conv.path for conv in layout.convs}
    lost = next((conv for conv in plan.convs if conv.converted and conv.path not in taken), None)
    if lost is not None:
        calls = [node.name for node in traced.calls(lost.path)]
        reasons = [layout.refusals[name].reason for name in calls if name in layout.refusals]
        raise PlanError(
            f"{lost.path} has low channels in the plan, and cannot have any",
            where=lost.path,
            why=reasons[0] if reasons else "the model does not call it on a map of channels",
            hint="leave its low_in and low_out empty",
        )


def require_inputs(conv: ConvNode, planned: ConvPlan, layout: Layout, low: Mask) -> None:
    """Raise PlanError for a convolution that reads other low channels than its input has."""
    mask = mask_of(conv.ids_in, low)
    have = () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))
    if planned.low_in in ((), have):
        return
    own = conv.ids_in[conv.ids_in >= 0]
    others = (other for other in layout.convs if other.path != conv.path)
    writers = sorted({other.path for other in others if np.intersect1d(other.ids_out, own).size})
    raise PlanError(
        f"{conv.path}: its low input channels are not those of its input",
        where=", ".join(writers[:_SHOWN]) or conv.path,
        why=f"low_in is {_some(planned.low_in)}; its input's low channels are {_some(have)}",
        hint="give it the low_out of what it reads, or an empty low_in to read a dense map",
    )


def _some(channels: Sequence[object]) -> str:
    shown = ", ".join(map(str, channels[:_SHOWN]))
    more = f" and {len(channels) - _SHOWN} more" if len(channels) > _SHOWN else ""
    return f"[{shown}]{more}" if channels else "empty"

"""Response norms: the global one is exact; the local one looks at neighbouring channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx, nn

from octify.layout.channels import DENSE, Ids, Refusal
from octify.layout.roles import View
from octify.nn.response_norm import OctaveGlobalResponseNorm
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.norm import emit_module, layout_view
from octify.ops.walk import Walk


def _layout_global(walk: Walk, node: fx.Node) -> Ids | View | Refusal | None:
    view = walk.view(operand(node))
    roles = "NCSS" if walk.module(node).channel_dim == 1 else "NSSC"
    fits = view is None or view.roles == roles
    return layout_view(walk, node, None if fits else "it takes another dimension for the channels")


def _emit_global(emitter: Emitter, node: fx.Node) -> Value:
    return emit_module(emitter, node, lambda module, _, low: OctaveGlobalResponseNorm(module, low))


def _layout_local(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    ids = walk.ids(operand(node))
    if ids is not None and bool((ids != DENSE).any()):
        return Refusal("it divides every channel by its neighbours, which may have another resolution")
    return ids


def _emit_local(emitter: Emitter, node: fx.Node) -> Value:
    return Value(emitter.copy(node))


OPS = (
    Op(
        "global response norm",
        _layout_global,
        _emit_global,
        modules=("timm.layers.grn.GlobalResponseNorm",),
        views=True,
    ),
    Op(
        "local response norm",
        _layout_local,
        _emit_local,
        modules=(nn.LocalResponseNorm, nn.CrossMapLRN2d),
        functions=(F.local_response_norm,),
    ),
)

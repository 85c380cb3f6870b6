"""The projected reference: the original network with ``Pi`` on the low channels.

It is the definition of a conversion (section 1 of the design) and shares nothing with the
rewriter but the layout: the original graph runs dense, and every value the plan calls octave
has each 2x2 block of its low channels replaced by the block's mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx

from octify.emitter import is_vector
from octify.nn.functional import project
from octify.nn.views import from_map, to_map
from octify.plan.model import Plan
from octify.plan.resolve import resolve
from octify.trace import Traced
from octify.views import map_shape, sizes


def project_channels(x: Tensor, low: Sequence[int]) -> Tensor:
    """``x`` (N, C, *size) with ``Pi`` applied to the channels ``low``."""
    index = torch.tensor(low, device=x.device)
    return x.index_copy(1, index, project(x.index_select(1, index)))


def project_view(x: Tensor, low: Sequence[int], roles: str, channels: Sequence[int]) -> Tensor:
    """As ``project_channels`` for a value whose dimensions have other ``roles`` (``octify.views``)."""
    return from_map(project_channels(to_map(x, roles), low), roles, channels)


def reference(traced: Traced, plan: Plan) -> fx.GraphModule:
    """The projected reference of ``plan``, in the original's training mode.

    Raises PlanError when the plan does not fit the model.
    """
    resolved = resolve(traced, plan)
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in traced.module.graph.nodes:
        made[node] = graph.node_copy(node, lambda n: made[n])
        mask = resolved.mask(node.name)
        shape = traced.shape(node)
        if mask is None or shape is None:
            continue
        roles = resolved.layout.roles(node.name, shape)
        if not is_vector(map_shape(roles, shape)):
            low = [int(c) for c in np.flatnonzero(mask)]
            made[node] = graph.call_function(project_view, (made[node], low, roles, sizes(roles, shape, "C")))
    module = fx.GraphModule(traced.module, graph, class_name=f"{type(traced.module).__name__}Reference")
    module.train(traced.training)
    return module

"""The projected reference: the original network with ``Pi`` on the low channels.

It is the definition of a conversion (docs/architecture.md, section 1) and shares nothing with the
rewriter but the layout: the original graph runs dense, and every value the plan calls octave
has each 2x2 block of its low channels replaced by the block's mean. A convolution without full exchange
runs once for its high outputs and once for its low ones, the inputs that these do not read being zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from octify.kernels.taps import BRANCHES, Exchange
from octify.layout.channels import Resolved, indices
from octify.layout.roles import sizes
from octify.nn.channels import split_indices
from octify.nn.exchange import exchange_of, sources
from octify.nn.functional import project
from octify.nn.views import from_map, to_map
from octify.ops.base import operand
from octify.passes.resolve import resolve
from octify.plan import ConvPlan, Plan
from octify.trace import Traced
from octify.trace.inner import leaves_of, place
from octify.trace.keywords import with_any_names
from octify.trace.modes import set_modes
from octify.trace.parts import assemble


def project_channels(x: Tensor, low: Sequence[int]) -> Tensor:
    """``x`` (N, C, *size) with ``Pi`` applied to the channels ``low``."""
    index = torch.tensor(low, device=x.device)
    return x.index_copy(1, index, project(x.index_select(1, index)))


def project_view(x: Tensor, low: Sequence[int], roles: str, channels: Sequence[int]) -> Tensor:
    """Like ``project_channels``, for a value whose dimensions have other ``roles`` (``layout.roles``)."""
    return _laid_out_like(x, from_map(project_channels(to_map(x, roles), low), roles, channels))


def _laid_out_like(x: Tensor, y: Tensor) -> Tensor:
    """``y``, of the shape of ``x``, in its order in memory: the model's ``view`` goes by it."""
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


def only_channels(x: Tensor, kept: Sequence[int], roles: str, channels: Sequence[int]) -> Tensor:
    """``x`` with zeros in all channels but ``kept``; a value whose dimensions have ``roles``."""
    whole = to_map(x, roles)
    index = torch.tensor(kept, device=x.device)
    chosen = torch.zeros_like(whole).index_copy(1, index, whole.index_select(1, index))
    return _laid_out_like(x, from_map(chosen, roles, channels))


def reference(traced: Traced, plan: Plan) -> fx.GraphModule:
    """The projected reference of ``plan``, in the original's training mode.

    Raises PlanError when the plan does not fit the model.
    """
    resolved = resolve(traced, plan)
    graph = with_any_names(fx.Graph())
    values: dict[fx.Node, fx.Node] = {}
    for node in traced.module.graph.nodes:
        planned = plan.by_path.get(str(node.target)) if node.op == "call_module" else None
        if planned is not None and _exchange(traced, node, planned) != "full":
            values[node] = _apart(graph, traced, resolved, node, planned, values)
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])
        mask = resolved.mask(node.name)
        shape = traced.shape(node)
        if mask is None or shape is None:
            continue
        # One sample per channel, too: it is its own mean, and larger inputs may have more of them.
        roles, low = resolved.layout.roles(node.name, shape), indices(mask)
        values[node] = graph.call_function(project_view, (values[node], low, roles, sizes(roles, shape, "C")))
    module = fx.GraphModule(traced.module, graph, class_name=f"{type(traced.module).__name__}Reference")
    if traced.inner is not None:
        inside = reference(traced.inner, plan)
        calls = frozenset(str(node.target) for node in inside.graph.find_nodes(op="call_module"))
        place(module, leaves_of(traced.inner, assemble(traced.inner, inside, calls)))
    set_modes(module, traced.modes)
    return module


def _apart(
    graph: fx.Graph,
    traced: Traced,
    resolved: Resolved,
    node: fx.Node,
    planned: ConvPlan,
    values: Mapping[fx.Node, fx.Node],
) -> fx.Node:
    """Call the convolution ``node`` for its high and its low outputs, each on the inputs that they read."""
    source = operand(node)
    ins = dict(zip(BRANCHES, split_indices(planned.in_channels, planned.low_in), strict=True))
    outs = dict(zip(BRANCHES, split_indices(planned.out_channels, planned.low_out), strict=True))
    parts = []
    for branch, out in outs.items():
        into = sorted(c for name in sources(_exchange(traced, node, planned), branch) for c in ins[name])
        operands = {**values, source: _only(graph, traced, resolved, source, values[source], into)}
        whole = graph.node_copy(node, operands.__getitem__)
        parts.append(_only(graph, traced, resolved, node, whole, out))
    return graph.call_function(torch.add, tuple(parts))


def _exchange(traced: Traced, node: fx.Node, planned: ConvPlan) -> Exchange:
    return exchange_of(traced.submodule(node), planned.exchange, planned.low_in, planned.low_out)


def _only(
    graph: fx.Graph, traced: Traced, resolved: Resolved, node: fx.Node, value: fx.Node, kept: Sequence[int]
) -> fx.Node:
    """Set all channels but ``kept`` of ``value``, the value of ``node``, to zero."""
    shape = traced.shape(node)
    assert shape is not None
    roles = resolved.layout.roles(node.name, shape)
    return graph.call_function(only_channels, (value, kept, roles, sizes(roles, shape, "C")))

"""Forward walk that assigns an id to every channel of a traced graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import fx

from octify.layout.channels import Layout, Refusal
from octify.ops import table
from octify.ops.emitter import display_name
from octify.ops.walk import Walk
from octify.trace import Traced
from octify.trace.attached import attached

_LIKE = ("to", "type_as")  # they ask a tensor for its type and device only


def couple(
    traced: Traced, dense_outputs: frozenset[str] = frozenset(), untouched: Mapping[str, str] | None = None
) -> Layout:
    """Compute the coupling of ``traced``, without some convolutions.

    Parameters
    ----------
    dense_outputs:
        Paths of convolutions whose output stays dense (they may still read octave input).
    untouched:
        Paths of convolutions that are left alone entirely, with the reason.
    """
    left = dict(untouched or {})
    read = _read_weights(traced)
    while True:
        walk = _walk(traced, dense_outputs, left, read)
        if not walk.conflicts:
            return walk.finish()
        left |= dict.fromkeys(
            sorted(walk.conflicts), "it is called at several places whose inputs cannot have one layout"
        )


def _walk(
    traced: Traced, dense_outputs: frozenset[str], left: Mapping[str, str], read: Mapping[str, str]
) -> Walk:
    walk = Walk(traced, dense_outputs, left, read)
    alone = {**_alone(traced), **_in_opaque(traced)}
    for node in traced.module.graph.nodes:
        op = table(walk.reads_view(node)).find(traced, node)
        module = traced.submodule(node)
        reason = alone.get(str(node.target)) or (None if module is None else attached(module))
        if reason is not None:
            walk.record(node, Refusal(reason))
        elif node.op in ("placeholder", "get_attr"):
            walk.record(node, walk.dense(node))
        elif op is not None:
            walk.record(node, op.layout(walk, node))
        elif node.op == "output" or node.target is OrderedDict:
            whose = "the model" if traced.parts is None else "a part of the model"
            walk.record(node, Refusal(f"it is an output of {whose}"))
        elif any(map(walk.coupled, node.all_input_nodes)):
            beyond = " of a value whose channels are not in dimension 1" if walk.reads_view(node) else ""
            walk.record(node, Refusal(_no_rule(traced, node) + beyond))
        else:
            walk.record(node, walk.dense(node))
    return walk


def _read_weights(traced: Traced) -> dict[str, str]:
    """Paths of called modules whose parameters the model's code uses too, with the reason to leave them."""
    calls = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    reasons: dict[str, str] = {}
    for node in traced.module.graph.find_nodes(op="get_attr"):
        path = str(node.target).rpartition(".")[0]
        users = [display_name(user) for user in node.users if user.target not in _LIKE]
        if path in calls and users:
            reasons.setdefault(path, f"its weights are used by {users[0]} too")
    return reasons


def _alone(traced: Traced) -> dict[str, str]:
    """Paths of layers that untraceable code calls itself, with the reason to leave them."""
    if traced.parts is None:
        return {}
    where = traced.parts.failure.where
    reason = "it is called by code that cannot be traced" + (f" ({where})" if where else "")
    return {part.path: reason for part in traced.parts.members if part.alone}


def _in_opaque(traced: Traced) -> dict[str, str]:
    """Paths of layers that the graph calls, and code that cannot be traced calls too, with the reason."""
    inside = {
        id(each): f"it is also inside {leaf.path}, which is run as it is"
        for leaf in traced.opaque
        if leaf.path in traced._modules
        for each in traced._modules[leaf.path].modules()
        if each is not traced._modules[leaf.path]
    }
    calls = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    return {path: inside[id(m)] for path, m in traced._modules.items() if path in calls and id(m) in inside}


def _no_rule(traced: Traced, node: fx.Node) -> str:
    if node.op == "call_module":
        opaque = {leaf.path: leaf for leaf in traced.opaque}.get(str(node.target))
        if opaque is not None:
            return opaque.reason + (f" ({opaque.where})" if opaque.where else "")
        return f"no octave rule for {type(traced.submodule(node)).__name__}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"no octave rule for {name}"

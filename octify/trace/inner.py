"""Parts inside the modules that cannot be traced: one ``if`` costs an operation and not a head.

A module with a data-dependent ``if`` is one node of the graph, and its code is run as it is. What that code
calls may be traceable all the same: its parts (``octify.trace.parts``) get a graph beside the model's own, in
the coordinates of the whole model. Their inputs and results are dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn

from octify.compat import ConvNd
from octify.errors import TraceError
from octify.trace.calls import Call, observe
from octify.trace.facts import MeasureError
from octify.trace.model import Opaque, Parts, Traced
from octify.trace.parts import PartCandidate, Search, together


def with_inner(model: nn.Module, inputs: Sequence[Tensor], traced: Traced) -> Traced:
    """``traced``, made of ``model`` (octify's own copy), with the parts inside its opaque modules."""
    called = {str(node.target) for node in traced.module.graph.find_nodes(op="call_module")}
    leaves = [leaf for leaf in traced.opaque if leaf.path in called]
    if not any(_convolutions(model.get_submodule(leaf.path)) > 1 for leaf in leaves):
        return traced
    seen = observe(model, inputs)
    search = Search(model, seen.calls, seen.reads)
    taken = frozenset(str(n.target) for n in traced.module.graph.nodes if n.op in ("call_module", "get_attr"))
    by_leaf = {leaf.path: list(_inside(leaf, search, seen.calls, taken)) for leaf in leaves}
    holders = tuple(path for path, parts in by_leaf.items() if parts)
    if not holders:
        return traced
    first = next(leaf for leaf in leaves if leaf.path in holders)
    parts = Parts(model, (), replace(first, path=""), seen.stopped, 0)
    try:
        inner = together(parts, [part for path in holders for part in by_leaf[path]], inputs, training=False)
    except (TraceError, MeasureError):
        return traced
    inner = replace(inner, training=traced.training, modes=traced.modes, within=holders)
    return replace(traced, inner=with_inner(model, inputs, inner))


def _inside(
    leaf: Opaque, search: Search, calls: Sequence[Call], taken: frozenset[str]
) -> Iterator[PartCandidate]:
    """The parts among the children of ``leaf`` that its code alone calls, and that are right at any size."""
    for part in search.below(leaf.path):
        graph = None if part.symbolic is None else part.symbolic.module
        if part.symbolic is None or graph is None or part.symbolic.fixed_sizes or _called(graph) < 2:
            continue
        own = [call for call in calls if call.path == part.path or call.path.startswith(f"{part.path}.")]
        used = any(path == part.path or path.startswith(f"{part.path}.") for path in taken)
        if not used and all(leaf.path in call.within for call in own):
            yield part


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(each, ConvNd) for each in module.modules())


def _called(graph: fx.GraphModule) -> int:
    """Calls of convolutions: between two there may be an octave map."""
    calls = graph.graph.find_nodes(op="call_module")
    return sum(isinstance(graph.get_submodule(str(node.target)), ConvNd) for node in calls)


def leaves_of(inner: Traced, model: nn.Module) -> Mapping[str, nn.Module]:
    """By path, what ``model`` holds in the places of the modules that ``inner`` is inside."""
    return {path: model.get_submodule(path) for path in inner.within}


def place(model: nn.Module, leaves: Mapping[str, nn.Module]) -> None:
    """Put ``leaves`` into ``model``, where it has modules at their paths."""
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    for path, leaf in leaves.items():
        holder, _, name = path.rpartition(".")
        if path in paths:
            setattr(model.get_submodule(holder), name, leaf)

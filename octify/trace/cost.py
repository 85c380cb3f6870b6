"""MACs, parameters and activation bytes of a graph, in total and by module path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from octify.trace import Facts


@dataclass(frozen=True)
class LayerCost:
    """Cost of one module (or function) over all its calls.

    macs:
        Multiply-accumulates of convolutions and matrix products.
    parameters:
        Numbers in its parameters.
    activation_bytes:
        Bytes of the values it hands on. Values inside it (a pooled input, say) are not counted.
    """

    macs: int = 0
    parameters: int = 0
    activation_bytes: int = 0


PLACE = "octify_place"  # in the meta of a function: the path of the layer that it is in the traced graph


@dataclass(frozen=True)
class Cost:
    """Costs of a whole graph. ``layers`` is keyed by module path, or node name for a function."""

    macs: int
    parameters: int
    activation_bytes: int
    layers: Mapping[str, LayerCost]


def place_of(node: fx.Node) -> str:
    """The path or name under which a node's cost is kept."""
    return str(node.target) if node.op == "call_module" else str(node.meta.get(PLACE, node.name))


def cost(module: fx.GraphModule, facts: Mapping[str, Facts]) -> Cost:
    """Add up ``facts`` (``octify.trace.facts.measure``) of ``module``'s nodes.

    ``activation_bytes`` of the whole is the sum over all values that the graph makes: what a
    training step keeps, and what inference reads and writes. Views and in-place results are free.
    """
    macs: dict[str, int] = {}
    activations: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for node in module.graph.nodes:
        place, fact = place_of(node), facts[node.name]
        macs[place] = macs.get(place, 0) + fact.macs
        activations[place] = activations.get(place, 0) + fact.new_bytes
        if node.op == "call_module":
            parameters[place] = _parameters(module.get_submodule(place))
    layers = {place: LayerCost(macs[place], parameters.get(place, 0), activations[place]) for place in macs}
    return Cost(sum(macs.values()), _parameters(module), sum(activations.values()), layers)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""A plan and a traced graph -> the octave GraphModule: the third and last walk over the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from octify.emitter import Boundary, Emitter, Value
from octify.layout import Resolved
from octify.ops import table
from octify.plan.model import Plan
from octify.plan.resolve import resolve
from octify.trace import Traced
from octify.trace.modes import set_modes


@dataclass(frozen=True)
class Rewritten:
    """The data of the "rewrite" arrow: the new module, its boundaries, the layouts used.

    ``values`` says, by name of an original node, which nodes of the new graph carry its value.
    """

    module: fx.GraphModule
    boundaries: tuple[Boundary, ...]
    resolved: Resolved
    values: Mapping[str, Value]


def rewrite(traced: Traced, plan: Plan) -> Rewritten:
    """Apply ``plan`` to ``traced``.

    The new module has the original's training mode. A module that was not converted is the
    traced copy's own. Raises PlanError when the plan does not fit the model.
    """
    resolved = resolve(traced, plan)
    emitter = Emitter(traced, plan, resolved)
    for node in traced.module.graph.nodes:
        emitter.consumer = node
        op = table(resolved.layout.reads_view(node)).find(traced, node)
        refused = node.name in resolved.layout.refusals
        octave = emitter.mask(node) is not None or any(emitter.is_octave(n) for n in node.all_input_nodes)
        dense = op is None or refused or not octave
        emitter.set(node, Value(emitter.copy(node)) if op is None or dense else op.emit(emitter, node))
    return _finished(traced, emitter, resolved)


def _finished(traced: Traced, emitter: Emitter, resolved: Resolved) -> Rewritten:
    for node in reversed(list(emitter.graph.nodes)):
        # Branches nobody reads. Not eliminate_dead_code: it keeps modules it calls impure.
        if node.op not in ("placeholder", "output") and not node.users:
            emitter.graph.erase_node(node)
    module = fx.GraphModule(emitter.modules, emitter.graph, class_name=type(traced.module).__name__)
    module.graph.lint()
    set_modes(module, traced.modes)
    _join(module, traced)
    used = {str(n.target) for n in module.graph.find_nodes(op="call_module")}
    values = {node.name: emitter.value(node) for node in traced.module.graph.nodes}
    return Rewritten(module, tuple(b for b in emitter.boundaries if b.path in used), resolved, values)


def _join(module: fx.GraphModule, traced: Traced) -> None:
    """Take what was added (indices of channels) to the device that all of the original is on."""
    devices = {tensor.device for tensor in (*traced.module.parameters(), *traced.module.buffers())}
    device = devices.pop() if len(devices) == 1 else None
    if device is not None and device.type != "meta":
        module.to(device)

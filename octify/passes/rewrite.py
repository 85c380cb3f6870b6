"""A plan and a traced graph -> the octave GraphModule: the third and last walk over the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from octify.layout.channels import Resolved
from octify.nn.guard import holds
from octify.ops import table
from octify.ops.emitter import Boundary, Emitter, Value
from octify.passes.resolve import resolve
from octify.passes.verifier import verify, verifying
from octify.plan import Plan
from octify.trace import Traced
from octify.trace.inner import leaves_of, place
from octify.trace.modes import set_modes
from octify.trace.parts import assemble


@dataclass(frozen=True)
class Rewritten:
    """Result of the rewrite: the new module, its boundaries, the layouts used.

    ``values`` maps the name of an original node to the nodes of the new graph that carry its value;
    ``inner`` holds the rewritten graphs inside opaque modules.
    """

    module: fx.GraphModule
    boundaries: tuple[Boundary, ...]
    resolved: Resolved
    values: Mapping[str, Value]
    inner: Rewritten | None = None


def rewrite(traced: Traced, plan: Plan, resolved: Resolved | None = None) -> Rewritten:
    """Apply ``plan`` to ``traced``; ``resolved`` is what ``resolve`` says of it, where that is at hand.

    The new module has the original's training mode. A module that was not converted is the
    traced copy's own. Raises PlanError when the plan does not fit the model, and CheckFailed when the
    new graph was to be verified (``octify.passes.verifier``) and does not have the plan's layout.
    """
    resolved = resolved or resolve(traced, plan)
    emitter = Emitter(traced, plan, resolved)
    for node in traced.module.graph.nodes:
        emitter.consumer = node
        op = table(resolved.layout.reads_view(node)).find(traced, node)
        refused = node.name in resolved.layout.refusals
        octave = emitter.mask(node) is not None or any(emitter.is_octave(n) for n in node.all_input_nodes)
        dense = op is None or refused or not octave
        emitter.set(node, Value(emitter.copy(node)) if op is None or dense else op.emit(emitter, node))
    rewritten = _finished(traced, emitter, resolved)
    if traced.inner is not None and is_inside(traced, plan):
        inner = rewrite(traced.inner, plan)
        place(rewritten.module, leaves_of(traced.inner, as_model(traced.inner, inner.module, plan)))
        rewritten = replace(rewritten, inner=inner)
    if verifying():
        verify(traced, resolved, rewritten.module, rewritten.values)
    return rewritten


def _finished(traced: Traced, emitter: Emitter, resolved: Resolved) -> Rewritten:
    for node in reversed(list(emitter.graph.nodes)):
        # Removes branches without readers. eliminate_dead_code would keep modules it considers impure.
        if node.op not in ("placeholder", "output") and node.target is not holds and not node.users:
            emitter.graph.erase_node(node)
    module = fx.GraphModule(emitter.modules, emitter.graph, class_name=type(traced.module).__name__)
    module.graph.lint()
    set_modes(module, traced.modes)
    _join(module, traced)
    used = {str(n.target) for n in module.graph.find_nodes(op="call_module")}
    values = {node.name: emitter.value(node) for node in traced.module.graph.nodes}
    return Rewritten(module, tuple(b for b in emitter.boundaries if b.path in used), resolved, values)


def _join(module: fx.GraphModule, traced: Traced) -> None:
    """Move new tensors (channel indices) to the device of the original, if it is on a single one."""
    devices = {tensor.device for tensor in (*traced.module.parameters(), *traced.module.buffers())}
    device = devices.pop() if len(devices) == 1 else None
    if device is not None and device.type != "meta":
        module.to(device)


def as_model(traced: Traced, module: fx.GraphModule, plan: Plan) -> nn.Module:
    """Convert ``module`` to the user's model: itself, or a copy of the original with converted parts."""
    if traced.parts is None:
        return module
    model = assemble(traced, module, frozenset(conv.path for conv in plan.convs if conv.converted))
    if traced.inner is not None:
        place(model, leaves_of(traced.inner, module))
    return model


def is_inside(traced: Traced, plan: Plan) -> bool:
    """Return whether ``plan`` converts anything inside the opaque modules of ``traced``."""
    inner = traced.inner
    return inner is not None and any(c.converted and not inner.is_elsewhere(c.path) for c in plan.convs)

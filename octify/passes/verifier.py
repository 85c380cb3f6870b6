"""Checks of a rewritten graph: every value has the channels and the size that its mask and its shape say.

A value (N, C, *size) whose mask has L low channels is two branches, high (N, C - L, *size) and low
(N, L, *low_size(size)); one without channels does not exist. A value without a mask is one tensor of the
original's shape. An operation that breaks this may still run, for pooling, upsampling and broadcasting take
any size: the answer is then wrong, and nothing says so.

The graph runs once on fake tensors for it. ``rewrite`` asks for it where the environment variable
``OCTIFY_VERIFY`` is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from octify.errors import CheckFailed
from octify.layout.channels import Mask, Resolved
from octify.layout.roles import map_shape
from octify.nn.functional import low_size
from octify.ops.emitter import Value, display_name
from octify.trace import Traced
from octify.trace.facts import MeasureError
from octify.trace.parts import measure_nodes

VERIFY = "OCTIFY_VERIFY"
_SHOWN = 5  # violations in one message: the first causes the others

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Violation:
    """Value of the original graph, by the name of its node, and the fault of its rewritten form."""

    node: str
    what: str


def verifying() -> bool:
    """Return whether to verify rewritten graphs."""
    return os.environ.get(VERIFY, "") not in ("", "0")


def verify(traced: Traced, resolved: Resolved, module: fx.GraphModule, values: Mapping[str, Value]) -> None:
    """Check ``module``, whose nodes carry ``values``, against the graph it comes from and its layout.

    Raises CheckFailed, which names the first values that are not as they should be.
    """
    broken = violations(traced, resolved, module, values)
    if not broken:
        return
    lines = [f"{each.node}: {each.what}" for each in broken[:_SHOWN]]
    more = [f"and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else []
    raise CheckFailed(
        "the rewritten graph does not have the layout of its plan",
        where=broken[0].node,
        why="; ".join(lines + more),
        hint="report it: the rule of that operation, or of one in front of it, is wrong",
    )


def violations(
    traced: Traced, resolved: Resolved, module: fx.GraphModule, values: Mapping[str, Value]
) -> list[Violation]:
    """List the faults in the order of the original graph."""
    try:
        facts = measure_nodes(traced, module)
    except MeasureError as error:
        place = "the graph" if error.node is None else display_name(error.node)
        return [Violation(place, f"it does not run: {error.cause}")]
    shapes = {name: each.shape for name, each in facts.items()}
    broken = []
    for node in traced.module.graph.nodes:
        faults = [*_value(traced, resolved, node, values, shapes)]
        if node.op == "output":
            faults += _results(traced, node, module, shapes)
        broken += [Violation(display_name(node), what) for what in faults]
    return broken


def _value(
    traced: Traced,
    resolved: Resolved,
    node: fx.Node,
    values: Mapping[str, Value],
    shapes: Mapping[str, Shape | None],
) -> Iterator[str]:
    """Faults of the value of ``node``."""
    shape, value, mask = traced.shape(node), values[node.name], resolved.mask(node.name)
    if shape is None:
        return  # several tensors; each is a value where it is taken out
    if not _same(value.mask, mask):
        yield f"it has {_count(value.mask)} low channels where its layout has {_count(mask)}, or others"
        return
    high, low = _expected(shape, mask, resolved.layout.roles(node.name, shape))
    for name, branch, want in (("high", value.high, high), ("low", value.low, low)):
        if (branch is None) != (want is None):
            yield f"it has {'no' if branch is None else 'a'} {name} branch"
        elif branch is not None and branch.name in shapes and shapes[branch.name] != want:
            what = f"its {name} branch" if mask is not None else "it"
            yield f"{what} is {shapes[branch.name]} and not {want}"


def _expected(shape: Shape, mask: Mask | None, roles: str) -> tuple[Shape | None, Shape | None]:
    """Shapes of the branches of a value of ``shape``; None for one that does not exist."""
    if mask is None:
        return shape, None
    batch, channels, *size = map_shape(roles, shape)
    low = int(np.count_nonzero(mask))
    high = (batch, channels - low, *size) if low < channels else None
    return high, (batch, low, *(low_size(size) if size else ()))


def _results(
    traced: Traced, output: fx.Node, module: fx.GraphModule, shapes: Mapping[str, Shape | None]
) -> Iterator[str]:
    """Faults of the model's output tensors."""
    (result,) = module.graph.find_nodes(op="output")
    before, after = _operands(output), _operands(result)
    if len(before) != len(after):
        yield f"it returns {len(after)} tensors and not {len(before)}"
        return
    for old, new in zip(before, after, strict=True):
        if traced.shape(old) != shapes[new.name]:
            yield f"{display_name(old)} is returned as {shapes[new.name]} and not {traced.shape(old)}"


def _operands(node: fx.Node) -> list[fx.Node]:
    """All nodes in the arguments, as often as they stand there."""
    operands: list[fx.Node] = []

    def note(operand: fx.Node) -> fx.Node:
        operands.append(operand)
        return operand

    fx.map_arg(node.args, note)
    return operands


def _same(a: Mask | None, b: Mask | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _count(mask: Mask | None) -> int:
    return 0 if mask is None else int(np.count_nonzero(mask))

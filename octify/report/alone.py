"""Warning about values all of whose channels are low: no high branch tells the size of their maps."""

from __future__ import annotations

from collections.abc import Iterator

from octify.checks.words import some
from octify.compat import ConvNd
from octify.nn.functional import octave_axes
from octify.passes.rewrite import Rewritten
from octify.trace import Traced


def low_alone(traced: Traced, rewritten: Rewritten) -> list[str]:
    """Return the warning that the model stops at sizes at which such a map is odd; none without one."""
    paths = list(dict.fromkeys(_paths(traced, rewritten)))
    if not paths:
        return []
    return [
        f"all channels of {some(paths)} are low: no high branch tells the size of their "
        "maps, and the converted model stops with an error at input sizes at which one of these maps has an "
        "odd size, or 2 samples along an axis"
    ]


def _paths(traced: Traced, rewritten: Rewritten) -> Iterator[str]:
    """Paths of the convolutions that write a map in low channels alone."""
    for node in traced.module.graph.find_nodes(op="call_module"):
        value = rewritten.values[node.name]
        shape = traced.shape(node) or ()
        if value.mask is None or not value.mask.all() or not isinstance(traced.submodule(node), ConvNd):
            continue
        size = shape[2:]
        if any(n > 1 and halved for n, halved in zip(size, octave_axes(len(size)), strict=True)):
            yield str(node.target)

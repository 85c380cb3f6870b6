"""Shapes of a graph's values for larger inputs: what is one sample in the example need not be one always.

A rule that looks at a shape sees the example's. Where two sizes are equal, or a size is 1, that may be so at
any input size (a gate that was pooled to one sample) or in the example alone (a map that strides left one
sample of). The graph is run again on larger fake inputs, of another shape, to tell these apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from octify.trace.facts import InputSpec, MeasureError, measure

_LEAST = 256  # samples along an axis: more than networks halve away
_FACTOR = 8

Shape = tuple[int, ...]


def shapes_elsewhere(module: fx.GraphModule, inputs: Sequence[InputSpec]) -> Mapping[str, Shape | None]:
    """Shapes by node name, with every axis behind the channels some times as long; empty if it cannot be run.

    The axes grow by different factors where the graph takes that, by one where it does not.
    """
    if not any(len(spec.shape) > 2 for spec in inputs):
        return {}
    for stretch in (2, 1):
        larger = [_larger(spec.shape, _factor(inputs), stretch) for spec in inputs]
        # Of the meta device: measuring asks for shapes, and large inputs take no memory.
        examples = [
            torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta")
            for shape, spec in zip(larger, inputs, strict=True)
        ]
        try:
            return {name: facts.shape for name, facts in measure(module, examples).items()}
        except MeasureError:
            continue
    return {}


def _factor(inputs: Sequence[InputSpec]) -> int:
    least = min(n for spec in inputs for n in spec.shape[2:])
    factor = _FACTOR
    while 0 < least * factor < _LEAST:
        factor *= 2
    return factor


def _larger(shape: Shape, factor: int, stretch: int) -> Shape:
    size = [n * factor * (stretch if axis else 1) for axis, n in enumerate(shape[2:])]
    return (*shape[:2], *size)

"""Checks at run time of what a conversion takes for granted about sizes.

A graph has no branches: it is the one that the example inputs took. ``holds`` stands where the model's own
code decided by a size, and raises where the decision would now be another, so that a converted model is
right or stops. In an exported program sizes are constants, and nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx.node import has_side_effect

from octify.errors import InputSizeError


@has_side_effect
def holds(value: Any, expected: Any, question: str, where: str | None = None) -> None:
    """Check that ``value``, computed from the sizes of the inputs, is what it was in the example.

    Parameters
    ----------
    value, expected:
        The number now, and then.
    question:
        The line of the model's code that asks.
    where:
        Its ``file:line``.

    Raises
    ------
    InputSizeError
        They differ.
    """
    if value != expected:
        raise InputSizeError(
            f"the model was converted for other input sizes: `{question}` decides by a size",
            where=where,
            why=f"it is {expected} for the example inputs of the conversion, and {value} for these inputs",
            hint="convert the model with example inputs of this size, for instance --input 1x3x224x224",
        )


def in_whole_blocks(high: Tensor | None, dims: Sequence[int], what: str) -> Tensor | None:
    """Check that a map has whole blocks along ``dims``, and return its high branch ``high``.

    Without a high branch a map is even. A single sample is a whole block of its own.

    Raises
    ------
    InputSizeError
        The size along one of ``dims`` is odd; ``what`` names the operation that cannot do with it.
    """
    odd = (
        [int(high.shape[dim]) for dim in dims if high.shape[dim] % 2 and high.shape[dim] > 1]
        if high is not None
        else []
    )
    if odd:
        raise InputSizeError(
            "the model was converted for other input sizes",
            why=f"{what} of a map of {odd[0]} positions along an axis: blocks of two would not stay together",
            hint="use an input size at which this map is even, or convert the model with inputs of this size",
        )
    return high

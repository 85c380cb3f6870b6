"""A question about sizes that was answered while a model was traced, asked again at run time.

A graph has no branches: it is the one that the example inputs took. ``holds`` stands where the model's own
code decided by a size, and raises where the decision would now be another, so that a converted model is
right or stops. In an exported program sizes are constants, and nothing is left of it.
"""

from __future__ import annotations

from typing import Any

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

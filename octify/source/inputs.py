"""Example inputs: from the shapes of ``--input``, the model's file, or the model's zoo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from octify.errors import SourceError
from octify.source.resolve import Built
from octify.source.shape import Shape, parse_shape

DEFAULT_SHAPE = "1x3x224x224"


def make_inputs(shapes: Sequence[Shape], built: Built, seed: int) -> tuple[Tensor, ...]:
    """Build the example inputs: ``shapes``, else the file's own, else the zoo's size, else 224 x 224."""
    if shapes:
        return random_inputs(shapes, seed)
    if built.example_inputs is not None:
        return _checked(built.example_inputs(), built.where)
    return random_inputs([parse_shape(text) for text in built.default_shapes or (DEFAULT_SHAPE,)], seed)


def random_inputs(shapes: Sequence[Shape], seed: int) -> tuple[Tensor, ...]:
    """Generate seeded inputs of ``shapes``: normal noise, or 0 and 1 for dtypes that are not floating."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_random(shape, generator) for shape in shapes)


def _random(shape: Shape, generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, shape.dtype)
    try:
        if dtype.is_floating_point:
            return torch.randn(shape.sizes, generator=generator).to(dtype)
        # 0 and 1 are valid indices into any table of two or more rows, and valid masks.
        return torch.randint(0, 2, shape.sizes, generator=generator).to(dtype)
    except (RuntimeError, MemoryError) as error:
        raise SourceError(f"an input of shape {shape} cannot be made", why=str(error)) from error


def _checked(value: object, where: str) -> tuple[Tensor, ...]:
    """Convert ``example_inputs`` to a tuple of tensors. Raises SourceError for anything else."""
    inputs = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    wrong = [
        f"{type(entry).__name__} at position {index}"
        for index, entry in enumerate(inputs)
        if not isinstance(entry, Tensor)
    ]
    if wrong or not inputs:
        raise SourceError(
            "example_inputs must be a tensor, a tuple of tensors, or a function that returns one of them",
            where=where,
            why=f"it holds {', '.join(wrong[:4])}" if wrong else "it is empty",
            hint="example_inputs = torch.randn(1, 3, 224, 224), or --input 1x3x224x224",
        )
    return tuple(entry.detach() for entry in inputs if isinstance(entry, Tensor))

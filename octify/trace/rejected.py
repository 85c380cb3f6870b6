"""The error for example inputs that a model does not take: where it stops, why, what to give instead."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem

import torch
from torch import Tensor, fx

from octify.compat import module_stack
from octify.errors import TraceError
from octify.trace.facts import MeasureError
from octify.trace.tracer import first_line


class RejectedError(TraceError):
    """The model itself does not take the inputs."""


def rejection(module: fx.GraphModule, inputs: Sequence[Tensor], error: MeasureError) -> RejectedError:
    """The error for inputs that the model does not take, at the node that failed."""
    node = error.node
    shapes = " and ".join("x".join(map(str, t.shape)) for t in inputs)
    place = None
    if node is not None:
        stack = module_stack(node)
        path = str(node.target) if node.op == "call_module" else (stack[-1] if stack else "")
        kind = type(module.get_submodule(path)).__name__ if node.op == "call_module" else str(node.target)
        place = f"{path or 'the model itself'} ({kind})"
        if node.target is getitem and isinstance(node.args[1], str):
            return RejectedError(
                f"the model's forward takes a mapping: it asks for {node.args[1]!r}",
                where=place,
                why=f"the example input is a tensor of {shapes}",
                hint="wrap the model in a module whose forward takes tensors",
            )
    own = {p.dtype for p in module.parameters() if p.is_floating_point()}
    others = sorted({_name(t.dtype) for t in inputs if t.dtype not in own and _is_real(t.dtype)})
    if own and others and _says_dtype(error.cause):
        return _of_dtype(inputs, sorted(map(_name, own)), others, place, error.cause)
    return RejectedError(
        f"the model rejects an input of {shapes}",
        where=place,
        why=first_line(error.cause),
        hint="give the size it was made for, for instance --input 1x3x224x224",
    )


def _of_dtype(
    inputs: Sequence[Tensor], own: Sequence[str], others: Sequence[str], place: str | None, cause: Exception
) -> RejectedError:
    first = "x".join(map(str, inputs[0].shape))
    suffix = "" if own[0] == "float32" else f":{own[0]}"
    return RejectedError(
        f"the model rejects an input in {' and '.join(others)}",
        where=place,
        why=f"its parameters are in {' and '.join(own)}: {first_line(cause)}",
        hint=f"give the input in that format: --input {first}{suffix}, or x.to(torch.{own[0]}) in Python",
    )


def _says_dtype(cause: Exception) -> bool:
    """Return whether PyTorch's message is about number formats: it has no class of its own for that."""
    text = str(cause).lower()
    return any(word in text for word in ("dtype", "scalar type", "input type", "c10::", "data type"))


def _is_real(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype in (torch.uint8, torch.bool, torch.int64, torch.int32)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

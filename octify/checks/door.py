"""Validation of the arguments of the library's functions, before any work is done."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from octify.compat import is_exported_operation
from octify.errors import OctifyError


def check_model(model: object) -> nn.Module:
    """Return ``model``. Raises OctifyError unless it is a module: not a class, a path or a function."""
    if isinstance(model, nn.Module):
        _require_python(model)
        return model
    if isinstance(model, torch.export.ExportedProgram):
        raise _compiled("a torch.export program")
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise OctifyError(
            f"the model is the class {model.__name__}, not an instance of it",
            hint=f"octify.convert({model.__name__}(...), example_inputs)",
        )
    raise OctifyError(
        f"the model is a {type(model).__name__}, not an nn.Module",
        why="octify converts modules; the command line takes files and names",
        hint="octify.convert(model, example_inputs), or octify convert model.py",
    )


def _require_python(model: nn.Module) -> None:
    """OctifyError for what was made of a model's code, and for layers that have no size yet."""
    if isinstance(model, torch.jit.ScriptModule):
        raise _compiled("a TorchScript module (torch.jit.script or torch.jit.trace)")
    if isinstance(model, fx.GraphModule) and any(
        is_exported_operation(node.target) for node in model.graph.nodes
    ):
        raise _compiled("the module of a torch.export program")
    lazy = next((name for name, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)), None)
    if lazy is not None:
        raise OctifyError(
            f"the model's {lazy} has no shape yet",
            where=lazy,
            why="it belongs to a lazy layer, which learns its sizes from the first input",
            hint="call the model once on an example input, then convert it",
        )


def _compiled(what: str) -> OctifyError:
    return OctifyError(
        f"the model is {what}",
        why="its layers are compiled into operations that cannot be replaced one by one",
        hint="give the Python model that it was made from (with the weights of its state_dict())",
    )


def check_inputs(example_inputs: object, model: nn.Module | None = None) -> tuple[Tensor, ...]:
    """Convert ``example_inputs``, tensors or arrays, to a tuple of tensors. Raises OctifyError."""
    if isinstance(example_inputs, (Tensor, np.ndarray)):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        raise OctifyError(
            "the example inputs are a mapping",
            why=f"it has {', '.join(map(repr, list(example_inputs)[:6])) or 'nothing'}; the model is called"
            " with tensors by position",
            hint=_positional(model),
        )
    if not isinstance(example_inputs, Sequence) or isinstance(example_inputs, (str, bytes)):
        raise OctifyError(
            f"the example inputs are a {type(example_inputs).__name__}",
            why="they are a tensor, or a sequence of tensors, as the model takes them",
            hint="torch.randn(1, 3, 224, 224)",
        )
    if not example_inputs:
        raise OctifyError("there are no example inputs", hint="torch.randn(1, 3, 224, 224)")
    return tuple(_tensor(value, number) for number, value in enumerate(example_inputs))


def check_count(name: str, value: object, least: int = 1) -> int:
    """Return ``value``. Raises OctifyError unless it is an integer in the range of a machine's counts."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
        raise OctifyError(
            f"{name} is {repr(value)[:80]}", why=f"it is a whole number, {least} or more (and below 2^31)"
        )
    return int(value)


def _tensor(value: object, number: int) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as error:
            raise OctifyError(
                f"example input {number} is an array of {value.dtype}", why=str(error)
            ) from None
    raise OctifyError(
        f"example input {number} is a {type(value).__name__}",
        why="every example input is a tensor: a list or dict of tensors as one argument is not taken",
        hint="wrap the model in a module whose forward takes tensors",
    )


def _positional(model: Any) -> str:
    """Hint on how to pass the inputs of ``model`` by position."""
    try:
        names = [p.name for p in inspect.signature(model.forward).parameters.values()][:4]
    except (AttributeError, TypeError, ValueError):
        names = []
    return f"({', '.join(f'inputs[{name!r}]' for name in names)},)" if names else "a tuple of tensors"

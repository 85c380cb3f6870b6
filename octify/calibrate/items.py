"""One item of the calibration data as inputs of the model: tensors, arrays, tuples, mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from octify.data.files import is_dataset
from octify.errors import OctifyError
from octify.trace import InputSpec, Traced

Row = tuple[Tensor, ...]


def each(data: Iterable[Any]) -> Iterator[Any]:
    """The items of ``data``; of a dataset those from 0 to its length. Raises OctifyError if it has none."""
    if is_dataset(data):
        dataset = cast("Any", data)
        return (dataset[i] for i in range(len(dataset)))
    try:
        return iter(data)
    except TypeError:
        raise OctifyError(
            f"calibration data is a {type(data).__name__}",
            why='it is an iterable of inputs, such as a DataLoader, or the word "synthetic"',
            hint="a list of tensors will do; octify convert --calib reads folders and files",
        ) from None


def rows_of(traced: Traced, item: Any, number: int) -> list[Row]:
    """The inputs of ``item``, the ``number``-th of the data, one by one, each with a batch dimension of 1.

    A tensor or an array is the model's input; a tuple begins with the inputs (or with a tuple of them);
    a mapping holds them under the names of ``forward``'s parameters, or holds one tensor that fits.

    Raises OctifyError when it is not what the model takes.
    """
    where = f"item {number} of the calibration data"
    tensors = _tensors(traced, item, where)
    batches = [_batch(tensor, spec, where) for tensor, spec in zip(tensors, traced.inputs, strict=True)]
    if len({len(x) for x in batches}) > 1:
        raise OctifyError(
            f"{where} has inputs of different batch sizes", why=f"they are {[len(x) for x in batches]}"
        )
    return [tuple(x[i : i + 1] for x in batches) for i in range(len(batches[0]))]


def _tensors(traced: Traced, item: Any, where: str) -> Sequence[Tensor]:
    wanted = traced.inputs
    if isinstance(item, Mapping):
        return _named(traced, item, where)
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    if parts and isinstance(parts[0], (tuple, list, Mapping)):
        return _tensors(traced, parts[0], where)  # inputs, and labels behind them
    tensors = [_tensor(part) for part in parts[: len(wanted)]]
    found = [t for t in tensors if t is not None]
    if len(found) < len(wanted):
        raise OctifyError(
            f"{where} is not an input of the model",
            why=f"it is a {type(item).__name__}; the model takes {len(wanted)} tensor(s)",
            hint="yield tensors, or tuples of tensors, as the model takes them",
        )
    return found


def _named(traced: Traced, item: Mapping[Any, Any], where: str) -> Sequence[Tensor]:
    """The tensors of a mapping that are the model's inputs."""
    names = [str(node.target) for node in traced.module.graph.find_nodes(op="placeholder")]
    held = {key: _tensor(value) for key, value in item.items()}
    given = [held.get(name) for name in names]
    if len(names) == len(traced.inputs) and all(t is not None for t in given):
        return [t for t in given if t is not None]
    spec = traced.inputs[0]
    fitting = [t for t in held.values() if t is not None and _fits(t, spec)]
    if len(traced.inputs) == len(fitting) == 1:
        return fitting
    shapes = [
        f"{key}: {'x'.join(map(str, t.shape)) or 'a number'}" for key, t in held.items() if t is not None
    ]
    raise OctifyError(
        f"{where} is a {type(item).__name__}, and it is not clear what in it is the model's input",
        why=f"the model takes {', '.join(names)}; it holds {', '.join(shapes) or 'no tensor'}",
        hint=f"yield tensors, or a dict with {', '.join(map(repr, names))}",
    )


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def _fits(tensor: Tensor, spec: InputSpec) -> bool:
    """Whether ``tensor`` is a batch, or one, of what ``spec`` describes, whatever its spatial size."""
    single = tensor.ndim == len(spec.shape) - 1
    shape = (1, *tensor.shape) if single else tuple(tensor.shape)
    return len(shape) == len(spec.shape) and shape[1:2] == spec.shape[1:2] and 0 not in shape[1:]


def _batch(tensor: Tensor, spec: InputSpec, where: str) -> Tensor:
    """``tensor`` with a batch dimension, and of the model's dtype."""
    if not _fits(tensor, spec):
        raise OctifyError(
            f"{where} has shape {'x'.join(map(str, tensor.shape))}",
            why=f"the model takes {'x'.join(map(str, spec.shape))}",
            hint=_shape_hint(tensor, spec),
        )
    x = (tensor[None] if tensor.ndim < len(spec.shape) else tensor).detach()
    dtype = getattr(torch, spec.dtype)
    if not dtype.is_floating_point:
        return x
    if not x.is_floating_point():
        raise OctifyError(
            f"{where} is {str(x.dtype).removeprefix('torch.')}",
            why="the model takes floating point inputs, normalised as in training",
            hint="convert and normalise them; x.float() alone, if the model takes pixels as they are",
        )
    return x.to(dtype)


def _shape_hint(tensor: Tensor, spec: InputSpec) -> str:
    channels_last = tensor.ndim >= 3 and tensor.shape[-1:] == spec.shape[1:2]
    if channels_last and tensor.ndim in (len(spec.shape), len(spec.shape) - 1):
        axis = 1 if tensor.ndim == len(spec.shape) else 0
        return f"the channels are its last dimension and belong in front: x.movedim(-1, {axis})"
    return "give inputs with the model's number of channels"

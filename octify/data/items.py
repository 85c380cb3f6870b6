"""Parsing of an item of a user's data into rows of the model's inputs and labels, for every command.

An item is a tensor or an array, a tuple that begins with the inputs (or with a tuple or mapping of them), or
a mapping that holds them under the names of ``forward``'s parameters or has one tensor that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octify.errors import OctifyError
from octify.trace.facts import InputSpec

IGNORED = -100  # ignored label, as in torch's cross entropy
LARGEST = 1e12  # largest value of an input: sums of larger squares overflow float32
LABELS = ("labels", "label", "targets", "target", "y", "class")


@dataclass(frozen=True)
class Item:
    """One or several rows: inputs (N, ...), labels (N,) or (N, H, W) int64 if the item has some."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


def parse_item(
    item: Any, specs: Sequence[InputSpec], where: str, *, names: Sequence[str] = (), labelled: bool = True
) -> Item:
    """Parse ``item`` into a batch of the model's inputs.

    Parameters
    ----------
    specs:
        Specifications of the model's inputs. A missing batch dimension is added; spatial sizes may differ.
    where:
        Name of the item in messages: ``item 3 of the data``.
    names:
        Names of the parameters of ``forward``, where they are available.
    labelled:
        Whether to look for labels; otherwise everything behind the inputs is ignored.

    Raises OctifyError when the model does not take it.
    """
    tensors, rest = _split(item, specs, names, where)
    inputs = tuple(_batch(tensor, spec, where) for tensor, spec in zip(tensors, specs, strict=True))
    if len({len(x) for x in inputs}) > 1:
        raise OctifyError(
            f"{where} has inputs of different batch sizes", why=f"they are {[len(x) for x in inputs]}"
        )
    if not labelled:
        return Item(inputs, None)
    single = tensors[0].ndim < len(specs[0].shape)
    return Item(inputs, _labels(rest, len(inputs[0]), single, where))


def usable(x: Tensor) -> bool:
    """Return whether all values of an input are finite, and their squares can be summed without overflow."""
    return not x.is_floating_point() or bool((torch.isfinite(x) & (x.abs() <= LARGEST)).all())


def _split(
    item: Any, specs: Sequence[InputSpec], names: Sequence[str], where: str
) -> tuple[Sequence[Tensor], Sequence[Any]]:
    """Split ``item`` into its inputs and the rest."""
    if isinstance(item, Mapping):
        return _named(item, specs, names, where)
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    if parts and isinstance(parts[0], (tuple, list, Mapping)):
        tensors, rest = _split(parts[0], specs, names, where)
        return tensors, parts[1:] or rest
    tensors = [t for t in map(_tensor, parts[: len(specs)]) if t is not None]
    if len(tensors) < len(specs):
        raise OctifyError(
            f"{where} is not an input of the model",
            why=f"it is a {type(item).__name__}; the model takes {len(specs)} tensor(s)",
            hint="yield tensors, or tuples of tensors, as the model takes them (labels may come behind)",
        )
    return tensors, parts[len(specs) :]


def _named(
    item: Mapping[Any, Any], specs: Sequence[InputSpec], names: Sequence[str], where: str
) -> tuple[Sequence[Tensor], Sequence[Any]]:
    """Inputs and labels among the tensors of a mapping."""
    held = {key: _tensor(value) for key, value in item.items()}
    rest = [item[key] for key in LABELS if key in item and key not in names][:1]
    matches = [held.get(name) for name in names]
    if len(names) == len(specs) and all(t is not None for t in matches):
        return [t for t in matches if t is not None], rest
    fitting = [t for t in held.values() if t is not None and _fits(t, specs[0])]
    if len(specs) == len(fitting) == 1:
        return fitting, rest
    shapes = [
        f"{key}: {'x'.join(map(str, t.shape)) or 'a number'}" for key, t in held.items() if t is not None
    ]
    takes = ", ".join(names) or f"{len(specs)} tensor(s)"
    raise OctifyError(
        f"{where} is a {type(item).__name__}, and it is not clear what in it is the model's input",
        why=f"the model takes {takes}; it holds {', '.join(shapes) or 'no tensor'}",
        hint=f"yield tensors, or a dict with {', '.join(map(repr, names))}" if names else "yield tensors",
    )


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def _fits(tensor: Tensor, spec: InputSpec) -> bool:
    """Return whether ``tensor`` is a batch, or a single sample, of ``spec``, at any spatial size."""
    single = tensor.ndim == len(spec.shape) - 1
    shape = (1, *tensor.shape) if single else tuple(tensor.shape)
    return len(shape) == len(spec.shape) and shape[1:2] == spec.shape[1:2] and 0 not in shape


def _batch(tensor: Tensor, spec: InputSpec, where: str) -> Tensor:
    """Convert ``tensor`` to a batch on the CPU in the model's dtype."""
    if not _fits(tensor, spec):
        raise OctifyError(
            f"{where} has shape {'x'.join(map(str, tensor.shape)) or 'of one number'}",
            why=f"the model takes {'x'.join(map(str, spec.shape))}",
            hint=_shape_hint(tensor, spec),
        )
    x = (tensor[None] if tensor.ndim < len(spec.shape) else tensor).detach().cpu()
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


def _labels(rest: Sequence[Any], count: int, single: bool, where: str) -> Tensor | None:
    """Labels behind the inputs; None where there are none."""
    if not rest or not isinstance(rest[0], (int, np.integer, np.ndarray, Tensor)):
        return None
    labels = torch.as_tensor(rest[0]).detach().cpu()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise OctifyError(
            f"the labels of {where} are {str(labels.dtype).removeprefix('torch.')}",
            why="labels are class numbers, whole numbers from 0",
            hint="convert them, or yield inputs alone to distil without labels",
        )
    labels = labels[None] if single else labels
    if labels.ndim not in (1, 3) or len(labels) != count:
        raise OctifyError(
            f"the labels of {where} have shape {'x'.join(map(str, labels.shape)) or 'of one number'}",
            why=f"there are {count} inputs; labels are one number, or one map of numbers, for each",
        )
    return labels.long()

"""Inputs to train on, with their labels where the data has some.

Labels are whole numbers, one for each input:

    a folder           the subfolder of each image, numbered in alphabetical order
    .npz .safetensors  an integer tensor called labels, label, targets or y
    .pt                the same in a dict
    file.py:loader     what stands behind the inputs: (x, y), or a Dataset of such pairs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octify.data import ImageFormat, check_data
from octify.data.files import loader as user_loader
from octify.data.files import named_tensors
from octify.data.folder import class_folders, image_paths, read_image
from octify.errors import OctifyError

LABELS = ("labels", "label", "targets", "y")
_FEWEST = 8
Read = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Examples:
    """A data set: ``read(i)`` gives the inputs of one example, without a batch dimension.

    labels:
        (N,) int64, or None.
    """

    count: int
    read: Read = field(repr=False)
    labels: Tensor | None = field(repr=False, default=None)
    warnings: tuple[str, ...] = ()

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """The inputs of several examples, (len(indices), ...) each."""
        rows = [self.read(i) for i in indices]
        try:
            return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        except RuntimeError as error:
            raise OctifyError(
                "the examples have different sizes", why=str(error), hint="give inputs of one size"
            ) from error

    def answers(self, indices: Sequence[int]) -> Tensor | None:
        """Their labels."""
        return None if self.labels is None else self.labels[torch.tensor(indices)]


def open_examples(text: str, shapes: Sequence[Sequence[int]], form: ImageFormat | None) -> Examples:
    """The data set that ``text`` names, for a model with inputs of ``shapes`` (N, ...).

    Raises OctifyError for data that is not there, is too little, or does not fit the model.
    """
    check_data(text)
    if text == "synthetic":
        raise OctifyError(
            "there is nothing to tune on", why="synthetic images serve calibration", hint="give real data"
        )
    place, colon, name = text.rpartition(":")
    if colon and place.endswith(".py"):
        examples = _of_loader(user_loader(place, name), f"{place}:{name}", len(shapes))
    elif Path(text).is_dir():
        assert form is not None
        examples = _of_folder(Path(text), form)
    else:
        examples = _of_file(Path(text), [len(shape) for shape in shapes])
    if examples.count < _FEWEST:
        raise OctifyError(f"{examples.count} examples are too few to tune on", hint="give some hundred")
    _check_shapes(examples, shapes, text)
    return examples


def _check_shapes(examples: Examples, shapes: Sequence[Sequence[int]], text: str) -> None:
    for x, shape in zip(examples.read(0), shapes, strict=True):
        if x.ndim != len(shape) - 1 or x.shape[0] != shape[1]:
            raise OctifyError(
                f"the examples in {text} have shape {'x'.join(map(str, x.shape))}",
                why=f"the model takes {'x'.join(map(str, shape[1:]))}",
                hint="give inputs as the model takes them",
            )


def _of_folder(folder: Path, form: ImageFormat) -> Examples:
    paths = image_paths(folder)
    if not paths:
        raise OctifyError(f"there are no images in {folder}", hint="give the folder that holds the images")
    names = class_folders(folder, paths)
    readable, skipped = [], []
    for path in paths:
        try:
            read_image(path, form)
            readable.append(path)
        except (OSError, SyntaxError, ValueError) as error:
            skipped.append(f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    labels = None
    if names:
        labels = torch.tensor([names.index(path.relative_to(folder).parts[0]) for path in readable])
    told = [f"{len(skipped)} image(s) could not be read and were left out: {'; '.join(skipped[:5])}"]
    return Examples(
        len(readable), lambda i: (read_image(readable[i], form),), labels, tuple(told if skipped else ())
    )


def _of_file(path: Path, dims: Sequence[int]) -> Examples:
    named = named_tensors(path)
    labels = next((named[name] for name in LABELS if name in named), None)
    inputs = [t for name, t in named.items() if name not in LABELS and t.ndim in dims]
    if len(inputs) < len(dims):
        raise OctifyError(
            f"{path} holds no tensor of {dims[0]} dimensions",
            why=f"it holds {', '.join(f'{name} {tuple(t.shape)}' for name, t in named.items()) or 'nothing'}",
            hint="save the inputs as the model takes them, already normalised",
        )
    return _in_memory(
        [t.float() if t.is_floating_point() else t for t in inputs[: len(dims)]], labels, str(path)
    )


def _of_loader(found: Iterable[Any], where: str, count: int) -> Examples:
    source: Any = getattr(found, "dataset", found)  # a DataLoader's batches are its own; a run makes others
    mapped = hasattr(source, "__getitem__") and not isinstance(source, (Tensor, Mapping))
    items: Iterable[Any] = (source[i] for i in range(len(source))) if mapped else found
    inputs: list[list[Tensor]] = [[] for _ in range(count)]
    labels: list[Tensor] = []
    for number, item in enumerate(items):
        parts = (
            (item,) if isinstance(item, Tensor) else tuple(item) if isinstance(item, (tuple, list)) else ()
        )
        if len(parts) < count or not all(isinstance(part, Tensor) for part in parts[:count]):
            raise OctifyError(
                f"item {number} of {where} is no input of the model",
                why=f"it is a {type(item).__name__}; the model takes {count} tensor(s)",
            )
        for kept, part in zip(inputs, parts, strict=False):
            kept.append(part.detach())
        if len(parts) > count:
            labels.append(torch.as_tensor(parts[count]).reshape(-1))
    return _in_memory([_joined(kept) for kept in inputs], torch.cat(labels) if labels else None, where)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Batches one after another, or single inputs, as one tensor (N, ...)."""
    if not parts:
        return torch.empty(0)
    return torch.cat(list(parts)) if parts[0].ndim >= 3 and _batched(parts) else torch.stack(list(parts))


def _batched(parts: Sequence[Tensor]) -> bool:
    return parts[0].ndim in (2, 4, 5) and all(p.shape[1:] == parts[0].shape[1:] for p in parts)


def _in_memory(inputs: Sequence[Tensor], labels: Tensor | None, where: str) -> Examples:
    count = len(inputs[0])
    finite = torch.ones(count, dtype=torch.bool)
    for x in inputs:
        if x.is_floating_point():
            finite &= torch.isfinite(x.flatten(1)).all(1)
    told: tuple[str, ...] = ()
    if not bool(finite.all()):
        told = (f"{int((~finite).sum())} examples had NaN or infinite values and were left out",)
        inputs = [x[finite] for x in inputs]
    if labels is not None:
        if labels.is_floating_point() or labels.ndim != 1 or len(labels) != count:
            raise OctifyError(
                f"the labels in {where} cannot be used",
                why=f"they are {tuple(labels.shape)} {labels.dtype}; wanted are {count} whole numbers",
                hint="--labels none tunes without them",
            )
        labels = labels[finite].long()
    return Examples(len(inputs[0]), lambda i: tuple(x[i] for x in inputs), labels, told)

"""Tensor files, and loaders in the user's code. Nothing is unpickled."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from octify.errors import OctifyError
from octify.source.execute import run_file, running

LABELS = "labels"
_UNREADABLE = (
    *(SafetensorError, zipfile.BadZipFile, zlib.error),
    *(OSError, ValueError, TypeError, EOFError, RuntimeError),
)


def tensors(path: Path, dims: int) -> list[Any]:
    """Read the inputs in a .npy, .npz, .safetensors or .pt file: batches, as the model takes them.

    A file with one tensor gives the model's input; of several, those with ``dims`` dimensions are
    the model's inputs, in the order of the file. One called ``labels`` is none of them.
    """
    return _inputs(path, _named(path), dims)


def labelled_tensors(path: Path, dims: int) -> tuple[list[Any], Tensor | None]:
    """``tensors``, and the tensor called ``labels`` if the file has one."""
    named = _named(path)
    return _inputs(path, named, dims), named.get(LABELS)


def _inputs(path: Path, named: Mapping[str, Tensor], dims: int) -> list[Any]:
    inputs = [t for name, t in named.items() if t.ndim == dims and name != LABELS]
    if not inputs:
        raise OctifyError(
            f"{path} holds no tensor of {dims} dimensions",
            why="the model's input has a batch, channels and spatial dimensions",
            hint="save the inputs as the model takes them, already normalised",
        )
    if not inputs[0].is_floating_point():
        raise OctifyError(
            f"the inputs in {path} are {str(inputs[0].dtype).removeprefix('torch.')}",
            why="the model takes floating point inputs, normalised as in training",
            hint="convert and normalise them before saving",
        )
    same = [t for t in inputs if len(t) == len(inputs[0])]
    return [tuple(same)] if len(same) > 1 else [same[0]]


def _named(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return {"": torch.from_numpy(np.load(path, allow_pickle=False))}
        if suffix == ".npz":
            if not zipfile.is_zipfile(path):  # which numpy would take for a pickle
                raise ValueError("it is damaged, or not a .npz file: numpy.savez writes them")
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if suffix == ".safetensors":
            return load_file(path)
        if suffix in (".pt", ".pth"):
            return dict(_leaves(torch.load(path, map_location="cpu", weights_only=True), ""))
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OctifyError(f"{path} cannot be read", why=reason) from error
    except pickle.UnpicklingError as error:
        raise OctifyError(
            f"{path} holds pickled Python objects, which octify refuses to load"
            if zipfile.is_zipfile(path)
            else f"{path} is damaged, or holds pickled Python objects, which octify refuses to load",
            why="unpickling a file runs whatever code it contains; only tensors are read",
            hint="torch.save(tensor, 'inputs.pt'), or numpy.save",
        ) from error
    raise OctifyError(
        f"{path} is not calibration data",
        why=f"{suffix or 'a file without a suffix'} is not read",
        hint="a folder of images, .npy, .npz, .safetensors, .pt, file.py:loader, or the word synthetic",
    )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings and sequences, with their place (``a.0``)."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, Mapping) else ():
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def loader(place: str, name: str) -> Iterable[Any]:
    """Load the iterable ``name`` of the Python file ``place``, or the result if it is a function.

    A dataset with ``__len__`` and ``__getitem__``, as torch has them, is one too; it is returned as it is.
    A failure while another iterable is read becomes a SourceError with the line in the user's code.
    """
    items, module = _load(place, name)
    return cast("Iterable[Any]", items) if is_dataset(items) else _guarded(items, module, f"{place}:{name}")


def items(place: str, name: str) -> Iterator[Any]:
    """The items of ``loader``, of a dataset those from 0 to its length; a failure is told likewise."""
    source, module = _load(place, name)
    each = (source[i] for i in range(len(source))) if is_dataset(source) else source
    return _guarded(each, module, f"{place}:{name}")


def _guarded(items: Iterable[Any], module: ModuleType, what: str) -> Iterator[Any]:
    with running(module, what):
        yield from items


def _load(place: str, name: str) -> tuple[Any, ModuleType]:
    module = run_file(place)
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise OctifyError(f"{place} has no {name}", why=f"it has {', '.join(public[:8])}")
    value = getattr(module, name)
    with running(module, f"{place}:{name}"):
        if callable(value) and not _is_iterable(value):
            value = value()
    if not _is_iterable(value):
        raise OctifyError(
            f"{place}:{name} is a {type(value).__name__}",
            why="calibration needs an iterable of inputs, or a function without arguments that returns one",
        )
    return value, module


def _is_iterable(value: Any) -> bool:
    return not isinstance(value, type) and (isinstance(value, Iterable) or is_dataset(value))


def is_dataset(value: Any) -> bool:
    """Return whether an object is a map-style dataset: sized and indexable, no tensor or mapping."""
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    return sized and not isinstance(value, (Tensor, Mapping, type))

"""Training data with random access: held in memory, or read from files or a dataset on demand."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octify.data import check_data, files, folder
from octify.data.format import ImageFormat
from octify.errors import OctifyError
from octify.storage.digests import digest_of_text
from octify.trace.facts import InputSpec
from octify.tune.parse import Row, parse_item, require_finite

MEMORY = 4 * 2**30  # bytes of a loader's items that are held
_READERS = 8  # threads that decode images


@dataclass(frozen=True)
class Batch:
    """Inputs (N, ...) as the model takes them, and class numbers (N,) or (N, H, W) int64, if any."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None


@dataclass(frozen=True)
class Samples:
    """Training data.

    read:
        Function that returns the batch of some indices. Its second argument is a seed for each, for data
        with random transforms of its own.
    classes:
        Names of the classes, where folders name them.
    own_transforms:
        Whether the data applies transforms of its own.
    digest:
        Digest that identifies the data, as far as possible without reading all of it.
    skipped:
        Files that could not be read, with reasons; grows while files are read. A neighbour replaces each.
    """

    count: int
    labelled: bool
    read: Callable[[Sequence[int], Sequence[int]], Batch]
    digest: str
    classes: tuple[str, ...] | None = None
    own_transforms: bool = False
    labels: Tensor | None = None
    warnings: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)


def open_samples(text: str, specs: Sequence[InputSpec], form: ImageFormat | None) -> Samples:
    """Open the training data that ``text`` names.

    A folder of images (``form`` says how they become inputs), with class folders in it as labels; a .npz,
    .safetensors or .pt file with a tensor called ``labels``; or ``file.py:loader``: a dataset with
    ``__len__`` and ``__getitem__``, which is read as needed, or any other iterable, which is read once,
    up to 4 GiB. Their items are inputs or tuples of inputs and, behind them, a label.

    Raises OctifyError for data that is not there, does not fit the model or is not finite.
    """
    check_data(text, "training data")
    place, colon, name = text.rpartition(":")
    if colon and place.endswith(".py"):
        source = files.loader(place, name)
        if files.is_dataset(source) and not isinstance(source, (list, tuple)):
            return _dataset(source, specs, text)
        return hold(source, specs)
    path = Path(text)
    if path.is_dir():
        assert form is not None
        return _images(path, form)
    inputs, labels = files.labelled_tensors(path, len(specs[0].shape))
    batch = inputs[0] if isinstance(inputs[0], tuple) else (inputs[0],)
    return hold([batch if labels is None else (*batch, labels)], specs)


def hold(items: Iterable[Any], specs: Sequence[InputSpec]) -> Samples:
    """Hold the rows of all ``items`` in memory, up to 4 GiB."""
    rows: list[Row] = []
    size = 0
    warnings: list[str] = []
    for number, item in enumerate(_watched(items)):
        parsed = parse_item(item, specs, number)
        _require_same(rows[0] if rows else parsed, parsed, number)
        require_finite(parsed.inputs, f"item {number} of the data")
        rows.append(parsed)
        size += sum(x.nbytes for x in parsed.inputs)
        if size > MEMORY:
            warnings.append(
                f"only the first {sum(len(r) for r in rows)} inputs are used, those that fit in 4 GiB: a"
                " dataset with __len__ and __getitem__ is read as needed instead"
            )
            break
    if not rows:
        raise OctifyError("there is no training data", why="the data yielded nothing")
    inputs = tuple(torch.cat(parts) for parts in zip(*(row.inputs for row in rows), strict=True))
    labelled = [row.labels for row in rows if row.labels is not None]
    labels = torch.cat(labelled) if labelled else None

    def read(numbers: Sequence[int], seeds: Sequence[int]) -> Batch:
        picked = torch.tensor(numbers)
        return Batch(tuple(x[picked] for x in inputs), None if labels is None else labels[picked])

    digest = hashlib.sha256()
    for x in (*inputs, *labelled):
        digest.update(x.contiguous().view(torch.uint8).numpy().data)
    return Samples(
        len(inputs[0]),
        labels is not None,
        read,
        digest.hexdigest(),
        labels=labels,
        warnings=tuple(warnings),
    )


def _require_same(first: Row, row: Row, number: int) -> None:
    """Require equal sizes, and labels in all rows or in none: rows are stacked to batches."""
    for a, b in zip(first.inputs, row.inputs, strict=True):
        if a.shape[1:] != b.shape[1:]:
            raise OctifyError(
                "the inputs have different sizes",
                why=f"item 0 is {_sizes(a)}, item {number} is {_sizes(b)}",
                hint="resize or crop them to one size",
            )
    if (first.labels is None) != (row.labels is None):
        have, lack = (0, number) if row.labels is None else (number, 0)
        raise OctifyError(
            "some of the data has labels and some has not",
            why=f"item {have} of the data has one, item {lack} has none",
        )


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape[1:]))


def _watched(items: Iterable[Any]) -> Iterable[Any]:
    """Iterate ``items``; a failure of the user's code becomes a SourceError."""
    try:
        yield from items
    except OctifyError:
        raise
    except Exception as error:
        raise OctifyError(
            "reading the training data failed",
            why=f"{type(error).__name__}: {error}",
            hint="--debug shows where",
        ) from error


def _images(path: Path, form: ImageFormat) -> Samples:
    paths = folder.listing(path, form)
    classes = folder.classes(path, paths)
    skipped: list[str] = []

    def one(number: int) -> tuple[Tensor, int]:
        # A neighbour stands in for an image that cannot be read, whatever process reads it and when.
        for place in (*range(number, len(paths)), *range(number)):
            try:
                return folder.read_image(paths[place], form), place
            except folder.UNREADABLE as error:
                failure = folder.failure(paths[place], error)
                if failure not in skipped:
                    skipped.append(failure)
        raise OctifyError(f"no image in {path} can be read", why=skipped[0])

    pool = ThreadPoolExecutor(_READERS)

    def read(numbers: Sequence[int], seeds: Sequence[int]) -> Batch:
        images = list(pool.map(one, numbers))
        labels = None if classes is None else torch.tensor([classes[1][place] for _, place in images])
        return Batch((torch.stack([image for image, _ in images]),), labels)

    names = "\n".join(f"{p.relative_to(path).as_posix()} {p.stat().st_size}" for p in paths)
    return Samples(
        len(paths),
        classes is not None,
        read,
        digest_of_text(f"{names}\n{form}"),
        classes=None if classes is None else tuple(classes[0]),
        warnings=tuple(folder.guesses(form)),
        skipped=skipped,
    )


def _dataset(dataset: Any, specs: Sequence[InputSpec], name: str) -> Samples:
    count = len(dataset)
    if not count:
        raise OctifyError("there is no training data", why=f"{name} has length 0")

    def one(number: int, seed: int) -> Row:
        seed_all(seed)
        (item,) = _watched(dataset[i] for i in (number,))
        row = parse_item(item, specs, number)
        require_finite(row.inputs, f"item {number} of the data")
        return row

    first = one(0, 0)

    def read(numbers: Sequence[int], seeds: Sequence[int]) -> Batch:
        rows = [one(number, seed) for number, seed in zip(numbers, seeds, strict=True)]
        for number, row in zip(numbers, rows, strict=True):
            _require_same(first, row, number)
        inputs = tuple(torch.cat(parts) for parts in zip(*(row.inputs for row in rows), strict=True))
        labels = [row.labels for row in rows if row.labels is not None]
        return Batch(inputs, torch.cat(labels) if labels else None)

    shapes = [_sizes(x) for x in first.inputs]
    return Samples(count, first.labels is not None, read, f"{count} x {shapes}", own_transforms=True)


def seed_all(seed: int) -> None:
    """Seed every generator that a dataset or a layer may draw from: random, numpy, torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

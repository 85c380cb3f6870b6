"""Calibration inputs: taken from whatever iterable, checked, bounded, and cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octify.errors import OctifyError
from octify.trace import Traced

MOST_IMAGES = 512
VALUES = 16 * 2**30  # bytes for the values of original and converted model, in memory and files
INPUTS = 2 * 2**30  # bytes for the inputs themselves, in memory
_CHUNK = 64 * 2**20  # bytes of the largest value of a chunk
_HELD_OUT = 8  # one in so many, at most _MOST_HELD_OUT
_MOST_HELD_OUT = 64
_LEAST = 16  # inputs that are taken however large they are
_FEW = 32  # inputs that are too few to keep some aside


@dataclass(frozen=True)
class Images:
    """Calibration inputs in chunks, those kept aside to measure on, and what is to be told about them."""

    chunks: tuple[tuple[Tensor, ...], ...]
    held_out: tuple[tuple[Tensor, ...], ...]
    warnings: tuple[str, ...]

    @property
    def count(self) -> int:
        """Images calibrated on."""
        return sum(len(chunk[0]) for chunk in self.chunks)


def gather(traced: Traced, data: Iterable[Any], *, most: int = MOST_IMAGES, device: torch.device) -> Images:
    """The first ``most`` inputs of ``data``, every eighth kept aside if there are 32.

    Parameters
    ----------
    data:
        Batches (N, ...) or single inputs (without N), tensors or tuples of them; what a tuple holds
        beyond the model's inputs (labels) is ignored. Inputs with NaN or infinite values are
        skipped and counted.

    Fewer are taken, with a warning, where the inputs would need more than 2 GiB, or the values alive
    at the widest cut through original and converted model, for all of them, more than 16 GiB (most of
    it on disk: ``store``); at least 16.

    Raises OctifyError when there are no inputs, or they do not fit the model.
    """
    limit = min(most, max(_LEAST, _fitting(traced)))
    rows, skipped, more = _rows(traced, data, limit)
    if not rows:
        raise OctifyError(
            "there are no usable calibration inputs",
            why=f"{skipped} had values that are not finite" if skipped else "the data yielded nothing",
            hint="give at least 64 inputs like those the model will see",
        )
    warnings = []
    if skipped:
        warnings.append(f"{skipped} calibration inputs had NaN or infinite values and were left out")
    if more and limit < most:
        warnings.append(
            f"only {limit} calibration inputs were used, to stay within {INPUTS // 2**30} GiB of inputs"
            f" and {VALUES // 2**30} GiB of values"
        )
    if len(rows) < _FEW:
        warnings.append(
            f"{len(rows)} calibration inputs are few: the fit stays near its start; 256 are enough"
        )
    kept = min(_MOST_HELD_OUT, len(rows) // _HELD_OUT) if len(rows) >= _FEW else 0
    aside = set(range(_HELD_OUT - 1, _HELD_OUT * kept, _HELD_OUT))
    size = chunk_size(traced)
    used = [row for i, row in enumerate(rows) if i not in aside]
    rest = [row for i, row in enumerate(rows) if i in aside]
    return Images(_chunks(used, size, device), _chunks(rest, size, device), tuple(warnings))


def _rows(traced: Traced, data: Iterable[Any], limit: int) -> tuple[list[tuple[Tensor, ...]], int, bool]:
    rows: list[tuple[Tensor, ...]] = []
    skipped = 0
    for number, item in enumerate(data):
        for row in _single(traced, item, number):
            if len(rows) == limit:
                return rows, skipped, True
            if all(bool(torch.isfinite(x).all()) for x in row if x.is_floating_point()):
                rows.append(row)
            else:
                skipped += 1
    return rows, skipped, False


def _single(traced: Traced, item: Any, number: int) -> list[tuple[Tensor, ...]]:
    """The inputs of one item of the data, one by one, each with a batch dimension of 1."""
    parts = (item,) if isinstance(item, Tensor) else tuple(item) if isinstance(item, (tuple, list)) else ()
    wanted = traced.inputs
    tensors = [p for p in parts[: len(wanted)] if isinstance(p, Tensor)]
    where = f"item {number} of the calibration data"
    if len(tensors) < len(wanted):
        raise OctifyError(
            f"{where} is not an input of the model",
            why=f"it is a {type(item).__name__}; the model takes {len(wanted)} tensor(s)",
            hint="yield tensors, or tuples of tensors, as the model takes them",
        )
    batches = []
    for tensor, spec in zip(tensors, wanted, strict=True):
        x = tensor[None] if tensor.ndim == len(spec.shape) - 1 else tensor
        if x.ndim != len(spec.shape) or x.shape[1:2] != spec.shape[1:2]:
            raise OctifyError(
                f"{where} has shape {'x'.join(map(str, tensor.shape))}",
                why=f"the model takes {'x'.join(map(str, spec.shape))}",
                hint="give inputs with the model's number of channels",
            )
        dtype = getattr(torch, spec.dtype)
        batches.append(x.detach().to(dtype) if dtype.is_floating_point else x.detach())
    return [tuple(x[i : i + 1] for x in batches) for i in range(min(len(x) for x in batches))]


def _chunks(
    rows: Sequence[tuple[Tensor, ...]], size: int, device: torch.device
) -> tuple[tuple[Tensor, ...], ...]:
    """Rows of equal shapes together, ``size`` at a time."""
    found = []
    pending: list[tuple[Tensor, ...]] = []
    for row in [*rows, ()]:
        same = bool(pending and row) and all(a.shape == b.shape for a, b in zip(pending[0], row, strict=True))
        if pending and (len(pending) == size or not same):
            found.append(tuple(torch.cat(parts).to(device) for parts in zip(*pending, strict=True)))
            pending = []
        if row:
            pending.append(row)
    return tuple(found)


def chunk_size(traced: Traced) -> int:
    """Images per chunk, so that no value of a chunk is larger than 64 MiB."""
    batch = max(1, traced.inputs[0].shape[0])
    largest = max((facts.new_bytes // batch for facts in traced.facts.values()), default=1)
    return int(max(1, min(128, _CHUNK // max(1, largest))))


def _fitting(traced: Traced) -> int:
    """How many inputs there is room for."""
    batch = max(1, traced.inputs[0].shape[0])
    each = sum(math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize for spec in traced.inputs) // batch
    return int(min(INPUTS // max(1, each), VALUES // max(1, 2 * live_bytes(traced))))


def live_bytes(traced: Traced) -> int:
    """Bytes per image of the values alive at the widest cut through the original."""
    batch = max(1, traced.inputs[0].shape[0])
    nodes = list(traced.module.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    freed: dict[object, int] = {}
    for source, node in last.items():
        freed[node] = freed.get(node, 0) + traced.facts[source.name].new_bytes
    alive = peak = 0
    for node in nodes:
        alive += traced.facts[node.name].new_bytes
        peak = max(peak, alive)
        alive -= freed.get(node, 0)
    return peak // batch

"""Calibration inputs: taken from whatever iterable, checked, bounded, and cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from octify.calibrate.inputs.items import Row, each, rows_of
from octify.calibrate.streams.sizes import batch_of, chunk_size, live_bytes
from octify.data.items import LARGEST, usable
from octify.errors import OctifyError
from octify.trace import Traced

MOST_IMAGES = 512
VALUES = 16 * 2**30  # bytes for the values of original and converted model, in memory and files
INPUTS = 2 * 2**30  # bytes for the inputs themselves, in memory
_HELD_OUT = 8  # one in so many, at most _MOST_HELD_OUT
_HELD_OUT_BLOCKS = 4  # of neighbouring inputs
_LEAST_BLOCK = 2
_MOST_HELD_OUT = 64
_LEAST = 16  # inputs that are taken however large they are
_FEW = 32  # inputs that are too few to keep some aside
_NAMED = 5  # inputs that are named of those that are left out


@dataclass(frozen=True)
class Images:
    """Calibration inputs in chunks, those kept aside to measure on, and what is to be told about them.

    ``generated`` counts those, last in ``chunks``, that are not the user's (``synthetic``, ``few``).
    """

    chunks: tuple[Row, ...]
    held_out: tuple[Row, ...]
    warnings: tuple[str, ...]
    generated: int = 0

    @property
    def count(self) -> int:
        """Images calibrated on."""
        return count_of(self.chunks)

    @property
    def user_count(self) -> int:
        """Number of the user's inputs; of all, where none is the user's."""
        return self.count - self.generated or self.count


def count_of(chunks: Sequence[Row]) -> int:
    """Images in all ``chunks``."""
    return sum(len(chunk[0]) for chunk in chunks)


def gather(traced: Traced, data: Iterable[Any], *, most: int = MOST_IMAGES, device: torch.device) -> Images:
    """The first ``most`` inputs of ``data``, an eighth kept aside if there are 32.

    Those kept aside are blocks of neighbours: crops of one photograph and frames of one film, whose files
    have neighbouring names, are alike, and would tell too little of others.

    Parameters
    ----------
    data:
        Batches (N, ...) or single inputs (without N), in the forms that ``items.rows_of`` takes. Inputs
        with NaN or infinite values are skipped, counted and named by number.

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
            why=f"all {len(skipped)} had values that are not finite, or larger than {LARGEST:g}"
            if skipped
            else "the data yielded nothing",
            hint="give at least 64 inputs like those the model will see",
        )
    _require_taken(traced, rows, device)
    warnings = []
    if skipped:
        warnings.append(
            f"{len(skipped)} calibration inputs had NaN, infinite or too large values and were left out:"
            f" numbers {_numbers(skipped)}, counted from 0"
        )
    if more and limit < most:
        warnings.append(
            f"only {limit} calibration inputs were used, to stay within {INPUTS // 2**30} GiB of inputs"
            f" and {VALUES // 2**30} GiB of values"
        )
    if len(rows) < _FEW:
        warnings.append(
            f"{len(rows)} calibration input(s) are few: the fit stays near its start; 256 are enough"
        )
    aside = _aside(len(rows))
    size = chunk_size(traced)
    used = [row for i, row in enumerate(rows) if i not in aside]
    rest = [row for i, row in enumerate(rows) if i in aside]
    return Images(_chunks(used, size, device), _chunks(rest, size, device), tuple(warnings))


def _aside(count: int) -> set[int]:
    """Indices of the held-out ones of ``count`` inputs: a few blocks of neighbours, spread over all."""
    kept = min(_MOST_HELD_OUT, count // _HELD_OUT) if count >= _FEW else 0
    blocks = min(_HELD_OUT_BLOCKS, kept // _LEAST_BLOCK)
    aside: set[int] = set()
    for block in range(blocks):
        length = kept * (block + 1) // blocks - kept * block // blocks
        middle = count * (2 * block + 1) // (2 * blocks)
        aside |= set(range(middle - length // 2, middle - length // 2 + length))
    return aside


def _rows(traced: Traced, data: Iterable[Any], limit: int) -> tuple[list[Row], list[int], bool]:
    """Rows with finite values, the numbers of those that were left out, and whether there are more."""
    rows: list[Row] = []
    skipped: list[int] = []
    for number, item in enumerate(each(data)):
        for row in rows_of(traced, item, number):
            if len(rows) == limit:
                return rows, skipped, True
            if all(usable(x) for x in row):
                rows.append(row)
            else:
                skipped.append(len(rows) + len(skipped))
    return rows, skipped, False


@torch.no_grad()
def _require_taken(traced: Traced, rows: Sequence[Row], device: torch.device) -> None:
    """OctifyError when the model rejects inputs of a size that is not the example's."""
    example = tuple(spec.shape[1:] for spec in traced.inputs)
    accepted = {example}
    training = traced.module.training
    for row in rows:
        sizes = tuple(tuple(x.shape[1:]) for x in row)
        if sizes in accepted:
            continue
        accepted.add(sizes)
        try:
            traced.module.eval()(*(x.to(device) for x in row))
        except Exception as error:
            raise OctifyError(
                f"the model rejects calibration inputs of {_written(sizes)}",
                why=(str(error).strip() or type(error).__name__).splitlines()[0],
                hint=f"give inputs of the example's size: {_written(example)}",
            ) from error
        finally:
            traced.module.train(training)


def _written(sizes: Sequence[Sequence[int]]) -> str:
    return " and ".join("x".join(map(str, size)) for size in sizes)


def _numbers(skipped: Sequence[int]) -> str:
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return ", ".join(map(str, skipped[:_NAMED])) + more


def _chunks(rows: Sequence[Row], size: int, device: torch.device) -> tuple[Row, ...]:
    """Rows of equal shapes together, ``size`` at a time."""
    chunks = []
    pending: list[Row] = []
    for row in [*rows, ()]:
        same = bool(pending and row) and all(a.shape == b.shape for a, b in zip(pending[0], row, strict=True))
        if pending and (len(pending) == size or not same):
            chunks.append(tuple(torch.cat(parts).to(device) for parts in zip(*pending, strict=True)))
            pending = []
        if row:
            pending.append(row)
    return tuple(chunks)


def _fitting(traced: Traced) -> int:
    """Number of inputs that fit in memory."""
    batch = batch_of(traced)
    each = sum(math.prod(spec.shape) * getattr(torch, spec.dtype).itemsize for spec in traced.inputs) // batch
    return int(min(INPUTS // max(1, each), VALUES // max(1, 2 * live_bytes(traced))))

"""What is measured: a converted network's outputs against the original's, with standard errors.

Crops of one photograph are alike, so standard errors are of sums over photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """A mean, its standard error, and of how many it is."""

    value: float
    error: float
    count: int


Measure = Callable[[Tensor, Tensor, Sequence[int]], Value]
"""From the original's output (N, ...), the other's, and the photograph of each of the N."""
SURE = 0.5  # the least top probability of an answer that counts as sure


def answers() -> dict[str, Measure]:
    """Of logits (N, classes)."""

    def same(wanted: Tensor, given: Tensor, photos: Sequence[int]) -> Value:
        return mean(_same(wanted, given), photos)

    def sure(wanted: Tensor, given: Tensor, photos: Sequence[int]) -> Value:
        certain = wanted.softmax(1).amax(1) >= SURE
        kept = [p for p, c in zip(photos, certain.tolist(), strict=True) if c]
        return mean(_same(wanted, given)[certain], kept)

    def divergence(wanted: Tensor, given: Tensor, photos: Sequence[int]) -> Value:
        p, q = wanted.double().log_softmax(1), given.double().log_softmax(1)
        return mean((p.exp() * (p - q)).sum(1), photos)

    return {"same top-1": same, "of the sure": sure, "KL": divergence, "relative error": relative}


def maps() -> dict[str, Measure]:
    """Of maps of logits (N, 1, H, W): edges kept and added at a probability of a half."""
    return {
        "edges kept": lambda a, b, p: _overlap(a > 0, b > 0, p),
        "edges that are the original's": lambda a, b, p: _overlap(b > 0, a > 0, p),
        "relative error": relative,
    }


def pictures() -> dict[str, Measure]:
    """Of pictures with values in [0, 1]: decibels of the peak over the mean squared difference."""

    def ratio(wanted: Tensor, given: Tensor, photos: Sequence[int]) -> Value:
        squares = mean((wanted - given).double().square().flatten(1).mean(1), photos)
        error = 10 / math.log(10) * squares.error / max(squares.value, 1e-30)
        return Value(-10 * math.log10(max(squares.value, 1e-30)), error, squares.count)

    return {"PSNR": ratio, "relative error": relative}


def boxes() -> dict[str, Measure]:
    """Of YOLOv8's output (N, 4 + classes, places)."""
    from tests.benchmarks.real.detections import found, matched

    def share(of: Tensor, among: Tensor, photos: Sequence[int]) -> Value:
        hits = [matched(found(a), found(b)) for a, b in zip(of, among, strict=True)]
        every = [p for p, its in zip(photos, hits, strict=True) for _ in range(len(its))]
        return mean(torch.cat(hits).double(), every)

    return {
        "boxes kept": share,
        "boxes that are the original's": lambda a, b, p: share(b, a, p),
        "relative error of boxes": lambda a, b, p: relative(a[:, :4], b[:, :4], p),
        "relative error of scores": lambda a, b, p: relative(a[:, 4:], b[:, 4:], p),
    }


def regions() -> dict[str, Measure]:
    """Of maps of probabilities (N, 1, H, W) whose regions above .3 are lines of text."""
    from tests.benchmarks.real.detections import kept_regions

    def share(of: Tensor, among: Tensor, photos: Sequence[int]) -> Value:
        hits = [kept_regions(a[0], b[0]) for a, b in zip(of, among, strict=True)]
        every = [p for p, its in zip(photos, hits, strict=True) for _ in range(len(its))]
        return mean(torch.cat(hits).double(), every)

    return {
        "lines kept": share,
        "lines that are the original's": lambda a, b, p: share(b, a, p),
        "relative error": relative,
    }


def relative(wanted: Tensor, given: Tensor, photos: Sequence[int]) -> Value:
    """``||difference|| / ||original - its mean over the inputs||``, with a standard error by photographs."""
    squares = (wanted - given).double().square().flatten(1).sum(1)
    spread = (wanted - wanted.mean(0)).double().square().flatten(1).sum(1)
    ratio = float(squares.sum() / spread.sum())
    rest = mean(squares - ratio * spread, photos)  # of a ratio of sums, to first order
    error = rest.error / float(spread.mean()) / (2 * math.sqrt(max(ratio, 1e-30)))
    return Value(math.sqrt(ratio), error, len(squares))


def mean(values: Tensor, photos: Sequence[int]) -> Value:
    """The mean of values (n,), its standard error by photographs: values of one are not independent."""
    count = len(values)
    if count == 0:
        return Value(math.nan, math.nan, 0)
    average = float(values.double().mean())
    sums = torch.zeros(max(photos) + 1, dtype=torch.double)
    sums.index_add_(0, torch.tensor(photos), values.double() - average)
    groups = len(set(photos))
    error = math.sqrt(float(sums.square().sum()) * groups / max(1, groups - 1)) / count
    return Value(average, error, count)


def _same(wanted: Tensor, given: Tensor) -> Tensor:
    return (wanted.argmax(1) == given.argmax(1)).double()


def _overlap(of: Tensor, among: Tensor, photos: Sequence[int]) -> Value:
    """The share of the points of one set that are in the other."""
    both, own = ((x.flatten(1).sum(1)).double() for x in (of & among, of))
    share = float(both.sum() / own.sum().clamp_min(1))
    rest = mean(both - share * own, photos)
    return Value(share, rest.error / max(float(own.mean()), 1e-30), int(own.sum()))

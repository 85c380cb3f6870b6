"""Boxes and regions that a detector finds, and which of them another one finds too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SCORE = 0.25  # NudeNet's own threshold
OVERLAP = 0.45  # boxes of a class that overlap by more are one
SAME = 0.5  # the least overlap of a box that was found again
TEXT = 0.3  # RapidOCR's own threshold
_LEAST_REGION = 40  # points


def found(output: Tensor) -> Tensor:
    """The boxes (n, 6) in one output (4 + classes, places) of YOLOv8: corners, score and class."""
    score, kind = output[4:].max(0)
    order = score.argsort(descending=True)
    order = order[score[order] > SCORE]
    centre, size = output[:2, order].T, output[2:4, order].T
    corners = torch.cat([centre - size / 2, centre + size / 2], 1)
    every = torch.cat([corners, score[order, None], kind[order, None].to(output)], 1)
    kept: list[Tensor] = []
    for box in every:
        same = [other for other in kept if other[5] == box[5]]
        if not same or float(overlaps(box[None], torch.stack(same)).max()) <= OVERLAP:
            kept.append(box)
    return torch.stack(kept) if kept else output.new_zeros(0, 6)


def matched(boxes: Tensor, others: Tensor) -> Tensor:
    """Which of ``boxes`` (n, 6) are among ``others``: of the same class, overlapping by half; each once."""
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    if not len(others):
        return hits
    shared = overlaps(boxes, others) * (boxes[:, None, 5] == others[None, :, 5])
    for i in range(len(boxes)):
        best = int(shared[i].argmax())
        if shared[i, best] >= SAME:
            hits[i] = True
            shared[:, best] = 0
    return hits


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4 or more) and (m, 4 or more): (n, m)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = (high - low).clamp_min(0).prod(2)
    areas = [(x[:, 2:4] - x[:, :2]).clamp_min(0).prod(1) for x in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp_min(1e-9)


def kept_regions(wanted: Tensor, given: Tensor) -> Tensor:
    """For every region of ``wanted`` (H, W) above the threshold, whether ``given`` has one that overlaps by
    half."""
    from scipy import ndimage

    labels, count = ndimage.label(wanted.numpy() > TEXT)
    others, _ = ndimage.label(given.numpy() > TEXT)
    hits = []
    for number in range(1, count + 1):
        region = labels == number
        if region.sum() < _LEAST_REGION:
            continue
        touching = np.unique(others[region])
        shares = [
            np.logical_and(region, others == n).sum() / np.logical_or(region, others == n).sum()
            for n in touching[touching > 0]
        ]
        hits.append(max(shares, default=0) >= SAME)
    return torch.tensor(hits, dtype=torch.bool)

"""A plan in the bases that its low channels lose least in."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from octify.calibrate.rotate.basis import best_rotated, best_unrotated, lost, low_basis
from octify.calibrate.rotate.moments import Moments, moments
from octify.calibrate.rotate.streams import LinearStream, streams
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.execution import Stream
from octify.plan import Plan
from octify.plan.rotation import RotatedWriter, Rotation, encoded
from octify.trace import Traced

_SMALLEST = 2.0**-14  # normal number in half precision


def with_rotations(traced: Traced, plan: Plan, chunks: Chunks, prefix: Stream | None = None) -> Plan:
    """``plan`` with a rotation for every stream of which it makes channels low, where that loses less.

    The numbers of low channels stay, and so do the channels themselves: the last are the best, and the
    choice of channels that follows finds them in the rotated model. A plan that has rotations keeps them.

    Parameters
    ----------
    traced:
        The model in its own basis.
    chunks:
        Calibration inputs; the model runs over them once.
    prefix:
        Values that are at hand (``observe``).
    """
    if plan.rotations or traced.parts is not None:
        return plan
    pairs = [(stream, count) for stream in streams(traced) if (count := _low(plan, stream))]
    if not pairs:
        return plan
    measured = moments(traced, [stream for stream, _ in pairs], chunks, prefix)
    candidates = [_rotation(*each, its_moments) for each, its_moments in zip(pairs, measured, strict=True)]
    return replace(plan, rotations=tuple(rotation for rotation in candidates if rotation is not None))


def _low(plan: Plan, stream: LinearStream) -> int:
    """Number of low channels of a stream, 0 for one that must keep its basis."""
    planned = [plan.by_path[w.path] for w in stream.writers if w.path in plan.by_path]
    if stream.reason is not None or len(planned) < len(stream.writers):
        return 0
    return max(len(conv.low_out) for conv in planned)


def _rotation(stream: LinearStream, low: int, stream_moments: Moments) -> Rotation | None:
    """The rotation of a stream; None where it does not help."""
    finite = all(
        bool(torch.isfinite(r.weighing).all() and torch.isfinite(r.high).all())
        for r in stream_moments.readers
    )
    whole = sum(float((r.weighing * r.high).sum()) for r in stream_moments.readers) if finite else 0.0
    if not finite or not whole > 0 or low >= stream.channels:
        return None
    text = encoded(low_basis(stream_moments.readers))
    rotation = Rotation(stream.channels, (RotatedWriter(stream.name),), (), text, low)
    matrix = torch.from_numpy(rotation.basis())  # as the plan keeps it
    old = torch.eye(stream.channels, dtype=torch.float64)
    before = lost(stream_moments.readers, old, best_unrotated(stream_moments.readers, low))
    after = lost(stream_moments.readers, matrix, best_rotated(stream_moments.readers, matrix, low))
    if not after < before:
        return None
    return replace(
        rotation,
        writers=tuple(
            RotatedWriter(w.path, w.norm, _spread(stream_moments, w.norm, matrix)) for w in stream.writers
        ),
        readers=tuple(reader.path for reader in stream.readers),
        lost_before=max(0.0, before),
        lost=max(0.0, after),  # rounding may take it below
    )


def _spread(stream_moments: Moments, norm: str | None, matrix: Tensor) -> str:
    if norm is None:
        return ""
    covariance = stream_moments.norms[norm]
    apart = matrix.square() @ covariance.diagonal()
    true = (matrix @ covariance * matrix).sum(1)
    # Channels that never change on these inputs carry no information.
    ratio = torch.where(apart > 0, true / apart.clamp_min(torch.finfo(apart.dtype).tiny), 1.0)
    return encoded(ratio.clamp(_SMALLEST, 6e4))

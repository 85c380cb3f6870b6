"""A traced graph in the bases of a plan."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from octify.calibrate.rotate.streams import LinearStream, StreamWriter, streams
from octify.calibrate.rotate.weights import mix_inputs, mix_normalised, mix_outputs
from octify.errors import PlanError
from octify.plan import Plan
from octify.plan.rotation import Rotation
from octify.trace import Traced


def in_basis(traced: Traced, plan: Plan) -> Traced:
    """``traced`` with its channels in the bases of ``plan``: the same function by other weights.

    A copy, unless the plan has no rotations. Raises PlanError when the plan rotates what is no stream of this
    model, or cannot be rotated in it.
    """
    if not plan.rotations:
        return traced
    _check_all(traced, plan)
    rotated = copy.deepcopy(traced)
    rotate(rotated, plan)
    return rotated


def rotate(traced: Traced, plan: Plan) -> None:
    """Multiply the bases of ``plan``, which fit it, into the weights of ``traced``, in place."""
    if any(parameter.is_meta for parameter in traced.module.parameters()):
        return  # there are no weights to change
    for rotation in plan.rotations:
        _rotate(traced, rotation)


def _check_all(traced: Traced, plan: Plan) -> None:
    if traced.parts is not None:
        raise PlanError(
            "the plan does not fit this model",
            why="it rotates channels, and this model is converted in parts",
            hint="use the model the plan was made for",
        )
    by_name = {stream.name: stream for stream in streams(traced)}
    for rotation in plan.rotations:
        _check(rotation, by_name)


def _check(rotation: Rotation, by_name: Mapping[str, LinearStream]) -> None:
    stream = by_name.get(rotation.name)
    expected = (
        rotation.channels,
        {StreamWriter(writer.path, writer.norm) for writer in rotation.writers},
        set(rotation.readers),
    )
    why = "in this model no layer writes such a value" if stream is None else stream.reason
    if stream is not None and why is None:
        have = stream.channels, set(stream.writers), {reader.path for reader in stream.readers}
        if have == expected:
            return
        why = "in this model other layers write or read it, or it has another number of channels"
    raise PlanError(
        f"the plan rotates the channels of what {rotation.name} writes, which this model does not allow",
        where=rotation.name,
        why=why,
        hint="use the model the plan was made for",
    )


def _rotate(traced: Traced, rotation: Rotation) -> None:
    matrix = torch.from_numpy(rotation.basis())
    for writer in rotation.writers:
        layer = traced.module.get_submodule(writer.path)
        if writer.norm is None:
            mix_outputs(layer, matrix)
        else:
            norm, spread = traced.module.get_submodule(writer.norm), torch.from_numpy(writer.variances())
            mix_normalised(layer, norm, matrix, spread)
    inverse = torch.linalg.inv(matrix)
    for path in rotation.readers:
        mix_inputs(traced.module.get_submodule(path), inverse)

"""A linear layer that reads a flattened octave map, without the merge in between.

``W flatten(U x) = W' flatten(x)``, where ``W'`` has for every low sample the sum of the weights of the
positions that it stands for. So the layer reads both branches as they are stored, has fewer weights (5/8
of them at alpha .5) and needs no upsampling: at batch 1, where its time is that of reading its weights,
as much is saved of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase
from onnxscript.rewriter.pattern import ANY_VALUE, OrValue

from octify.export.edit import (
    accepted,
    channels_of,
    constant,
    flag,
    producer,
    refused,
    shaped,
    static_sizes,
    text,
)
from octify.export.slices import slice_bounds

Weights = npt.NDArray[Any]


class MergeIntoLinear(RewriteRuleClassBase):
    """Gemm of the flattened Concat of a map and an upsampled one -> Gemm of both, each flattened as it is.

    The upsampled map may be cropped, and the channels may be put in order behind the Concat.
    """

    def pattern(self, op: Any, high: Any, low: Any, index: Any, weight: Any) -> Any:
        up = op.Resize(low, ANY_VALUE, [1, 1, 2, 2], _outputs=["up"])
        crop = op.Slice(up, _allow_other_inputs=True, _outputs=["crop"])
        merged = op.Concat(high, OrValue([up, crop]), axis=1)
        ordered = op.Gather(merged, index, axis=1)
        image = OrValue([merged, ordered], name="image")
        flat = OrValue([op.Flatten(image), op.Reshape(image, ANY_VALUE)], name="flat")
        return op.Gemm(flat, weight, _allow_other_inputs=True, _outputs=["y"])

    def check(
        self,
        context: Any,
        high: ir.Value,
        low: ir.Value,
        weight: ir.Value,
        up: ir.Value,
        image: ir.Value,
        flat: ir.Value,
        y: ir.Value,
        index: ir.Value | None = None,
        crop: ir.Value | None = None,
    ) -> MatchResult:
        if flag(producer(y), "transA") or weight.const_value is None:
            return refused("its weight is computed, or its input transposed", y)
        if text(producer(up), "mode", "nearest") != "nearest":
            return refused("the map is not upsampled by copies", up)
        bounds = None if crop is None else slice_bounds(producer(crop))
        if crop is not None and (bounds is None or bounds[0].any()):
            return refused("the map is not cropped at its end", crop)
        if any(value.shape is None for value in (high, low, image, flat)):
            return refused("a shape is unknown", flat)
        return _fits(high, low, image, flat, index, weight)

    def rewrite(
        self,
        op: Any,
        high: ir.Value,
        low: ir.Value,
        weight: ir.Value,
        flat: ir.Value,
        y: ir.Value,
        index: ir.Value | None = None,
        **_: ir.Value,
    ) -> Any:
        node, count = producer(y), channels_of(high)
        transposed = flag(node, "transB")
        order = _order(index, count + channels_of(low))
        joined = _by_branch(_stored(weight, transposed), order, count, _size(high))
        vectors = [_flattened(op, value, f"{flat.name}_{n}") for n, value in enumerate((high, low))]
        both = op.Concat(*vectors, axis=1, _outputs=[f"{flat.name}_both"])
        shaped(both, like=flat, shape=[flat.shape[0], joined.shape[1]])  # type: ignore[index]
        joined = np.ascontiguousarray(joined if transposed else joined.T)
        return op.Gemm(both, constant(op, y, "weight", joined), *node.inputs[2:], **node.attributes)


def _fits(
    high: ir.Value,
    low: ir.Value,
    image: ir.Value,
    flat: ir.Value,
    index: ir.Value | None,
    weight: ir.Value,
) -> MatchResult:
    """Return whether the shapes are those of two branches and of a linear layer that reads both."""
    assert image.shape is not None and flat.shape is not None
    shape = static_sizes(image.shape[1:])
    if shape is None or len(shape) != 3 or static_sizes(flat.shape[1:]) != [int(np.prod(shape))]:
        return refused("it is not the flattened image, of a known size", flat)
    if index is not None and (index.const_value is None or index.const_value.numpy().ndim != 1):
        return refused("channels are put in an order that is computed", index)
    if sorted(_order(index, shape[0]).tolist()) != list(range(shape[0])):
        return refused("not every channel is read once", index)
    if any(static_sizes(value.shape[1:]) is None for value in (high, low) if value.shape is not None):
        return refused("the size of a branch is open", low)
    if channels_of(high) + channels_of(low) != shape[0] or _size(low) != [-(-n // 2) for n in shape[1:]]:
        return refused("the low branch has not half the size", low)
    assert weight.const_value is not None
    if int(np.prod(shape)) not in weight.const_value.shape.numpy():
        return refused("the weight is of another size", weight)
    return accepted()


def _order(index: ir.Value | None, channels: int) -> Weights:
    """The place among both branches of every channel of the image."""
    if index is None:
        return np.arange(channels)
    assert index.const_value is not None
    return index.const_value.numpy()


def _stored(weight: ir.Value, transposed: bool) -> Weights:
    """The weight as (outputs, inputs)."""
    assert weight.const_value is not None
    stored = weight.const_value.numpy()
    return stored if transposed else stored.T


def _by_branch(stored: Weights, order: Weights, count: int, size: list[int]) -> Weights:
    """The weight (O, C H W) for the ``count`` high channels, then for the low ones: (O, inputs)."""
    by_place = np.empty((len(stored), len(order), *size), stored.dtype)
    by_place[:, order] = stored.reshape(len(stored), len(order), *size)
    parts = (by_place[:, :count], _blocks_summed(by_place[:, count:]))
    return np.concatenate([part.reshape(len(stored), -1) for part in parts], axis=1)


def _flattened(op: Any, value: ir.Value, name: str) -> ir.Value:
    assert value.shape is not None
    flat = op.Flatten(value, _outputs=[name])
    return shaped(flat, like=value, shape=[value.shape[0], channels_of(value) * int(np.prod(_size(value)))])


def _size(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [int(n) for n in value.shape[2:]]  # type: ignore[arg-type]


def _blocks_summed(weight: Weights) -> Weights:
    """(O, C, H, W) -> (O, C, ceil(H / 2), ceil(W / 2)), the sums of blocks of 2x2."""
    for axis in (2, 3):
        weight = np.add.reduceat(weight, range(0, weight.shape[axis], 2), axis=axis)
    return weight

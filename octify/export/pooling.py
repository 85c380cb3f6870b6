"""Facts of a pooling (AveragePool, MaxPool) that several rules use."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from octify.export.edit import ints, text


@dataclass(frozen=True)
class Windows:
    """Windows of a pooling: one number for each spatial axis, in ``pads`` begins, then ends."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    def uncovered(self, axis: int, size: int) -> int:
        """Number of samples at the end of an axis of ``size`` that no whole window covers."""
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        padded = size + self.pads[axis] + self.pads[axis + len(self.kernel)]
        return (padded - reach) % self.strides[axis]


def windows(pool: ir.Node) -> Windows | None:
    """The windows of ``pool``; None if the runtime computes its padding (``auto_pad``)."""
    if text(pool, "auto_pad", "NOTSET") != "NOTSET":
        return None
    kernel = list(pool.attributes["kernel_shape"].as_ints())
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    return Windows(
        kernel, ints(pool, "strides", ones), ints(pool, "dilations", ones), ints(pool, "pads", zeros)
    )

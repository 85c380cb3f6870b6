"""Warning about convolutions that pad by the size of their input ("SAME"), at sizes of another remainder."""

from __future__ import annotations

from octify.checks.words import some
from octify.kernels.taps import SameAxis
from octify.nn.conv import OctaveConv
from octify.passes.rewrite import Rewritten


def same_padding(rewritten: Rewritten) -> list[str]:
    """Return the warning that low channels look one sample aside at some other sizes, if so.

    A stride of 1 pads alike at every size (``octify.kernels.taps.SameAxis``).
    """
    paths = [
        path
        for path, layer in rewritten.module.named_modules()
        if isinstance(layer, OctaveConv)
        and any(isinstance(axis, SameAxis) and axis.stride > 1 for axis in layer.axes)
    ]
    if not paths:
        return []
    return [
        f'{some(paths)}: padding follows the size of the input ("SAME"), and their low '
        "channels have that of the example. At sizes that leave another remainder by a stride they look one "
        "sample aside: convert the model for such sizes anew"
    ]

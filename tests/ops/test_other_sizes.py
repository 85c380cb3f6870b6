"""A map that has one sample along an axis in the example, and more of them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from octify.errors import InputSizeError
from octify.passes.reference import reference
from tests.between import CHANNELS as C
from tests.between import Conversion, converted
from tests.oracle import EXACT, assert_same, noise, randomised
from tests.tellable import unless_untellable

Operation = Callable[[Tensor], Tensor]

OPERATIONS: dict[str, Operation | nn.Module] = {
    "relu": F.relu,
    "max pool": nn.MaxPool2d(3, 2, 1),
    "average pool": nn.AvgPool2d(3, 1, 1),
    "adaptive, one axis": lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
    "adaptive maximum, one axis": lambda x: F.adaptive_max_pool2d(x, (1, None)),
    "adaptive": nn.AdaptiveAvgPool2d(2),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "fixed size": lambda x: F.interpolate(x, size=(4, 4)),
    "convolution": nn.Conv2d(C, C, 3, padding=1),
    "depthwise": nn.Conv2d(C, C, 3, padding=1, groups=C),
    "transposed": nn.ConvTranspose2d(C, C, 2, 2),
    "pixel shuffle": lambda x: F.pixel_shuffle(x.repeat_interleave(4, 1), 2),
    "group norm": nn.GroupNorm(2, C),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2),
    "spatial gate": lambda x: x * x.mean(1, keepdim=True).sigmoid(),
    "maximum with a gate": lambda x: torch.maximum(x, x.mean(1, keepdim=True)),
    "channel gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "strip": lambda x: x * x.mean(3, keepdim=True).sigmoid(),
    "spread": lambda x: x + x.mean((2, 3), keepdim=True).expand_as(x).relu(),
    "expanded": lambda x: x + x.mean((2, 3), keepdim=True).expand(x.shape[0], C, x.shape[2], x.shape[3]),
    "flattened": lambda x: x.flatten(2).unsqueeze(-1),
    "split in four": lambda x: x.repeat(1, 1, 2, 2).reshape(x.shape[0], C, 4, -1),
    "like another": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:]).reshape_as(x),
    "window": lambda x: x[:, :, :1] + x,
    "flip": lambda x: x.flip(2),
    "softmax": lambda x: x.softmax(1),
    "concatenation": lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1)[:, 2 : 2 + C],
    "squeezed": lambda x: x.squeeze(2).unsqueeze(2) if x.shape[2] == 1 else x,
}
EXAMPLES = ((4, 4), (4, 16), (16, 4))
SIZES = st.tuples(st.sampled_from((4, 8, 16, 32)), st.sampled_from((4, 8, 16, 32)))


class Small(nn.Module):
    """The operation sees a map of a quarter of the input's size."""

    def __init__(self, operation: Operation | nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, C, 3, padding=1)
        self.operation = operation
        self.last = nn.Conv2d(C, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(F.avg_pool2d(self.first(x), 4))).mean((2, 3))


@cache
def conversion(name: str, example: tuple[int, int], alpha: float) -> Conversion:
    torch.manual_seed(0)
    return converted(randomised(Small(OPERATIONS[name])), noise(2, 3, *example), alpha)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=5)
@given(data=st.data())
def test_right_at_other_sizes_or_refused(name: str, data: st.DataObject) -> None:
    alpha = data.draw(st.sampled_from((0.5, 1.0)))
    made = conversion(name, data.draw(st.sampled_from(EXAMPLES)), alpha)
    x = noise(2, 3, *data.draw(SIZES), seed=1)
    with torch.no_grad():
        try:
            wanted = reference(made.traced, made.plan)(x)
        except (RuntimeError, InputSizeError):
            return  # the model itself does not take this size
        result = unless_untellable(lambda: made.rewritten.module(x), alone=alpha == 1)
        assert_same(result, wanted, EXACT)


@pytest.mark.parametrize(
    "operation", [lambda x: x.flip(3), lambda x: x[..., -4:]], ids=["flip", "from the end"]
)
def test_odd_sizes_that_part_blocks_are_refused(operation: Operation) -> None:
    """Blocks counted from the end are not those counted from the front."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(operation(self.first(x)))

    made = converted(randomised(Net()), noise(1, 3, 8, 8))
    assert made.low("first") == C // 2
    with torch.no_grad():
        x = noise(1, 3, 6, 10)
        assert_same(made.rewritten.module(x), reference(made.traced, made.plan)(x), EXACT)
        with pytest.raises(InputSizeError, match="positions"):
            made.rewritten.module(noise(1, 3, 8, 9))

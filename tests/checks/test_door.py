"""What the library's functions and data are called with: a clear error, or the natural meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octify
from octify.data.items import parse_item
from octify.errors import OctifyError
from octify.trace import trace
from octify.trace.facts import InputSpec
from octify.tune.data import hold

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, one octave on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.b(self.a(image)).mean((2, 3))


@pytest.mark.parametrize(
    "alpha", ["0.5", "half", None, float("nan"), float("inf"), -0.1, 1.5, 10**400, [0.5], True]
)
def test_an_alpha_that_is_none(alpha: Any) -> None:
    for function in (octify.convert, octify.inspect):
        with pytest.raises(OctifyError, match="alpha must lie between 0 and 1"):
            function(Net(), X, alpha=alpha)


@pytest.mark.parametrize(
    "inputs", [None, {}, {"image": X}, "1x3x16x16", 5, [], [None], [{"image": X}], [[X]], [2.0]]
)
def test_inputs_that_are_none(inputs: Any) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: octify.convert(Net(), inputs),
        lambda: octify.inspect(Net(), inputs),
        lambda: octify.profile(Net(), inputs),
        lambda: octify.bench({"net": Net()}, inputs, runtimes=["eager"]),
    )
    for call in calls:
        with pytest.raises(OctifyError, match="example input"):
            call()


@pytest.mark.parametrize("model", [Net, None, "net.py", lambda x: x])
def test_a_model_that_is_none(model: Any, tmp_path: Path) -> None:
    for call in (octify.convert, octify.profile):
        with pytest.raises(OctifyError, match="the model is"):
            call(model, X)
    with pytest.raises(OctifyError, match="the model is"):
        octify.load(tmp_path, model)


@pytest.mark.parametrize(
    "options",
    [{"rounds": 0}, {"rounds": -3}, {"rounds": 2.5}, {"threads": 0}, {"batches": [0]}, {"batches": [10**30]}],
)
def test_a_bench_of_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(OctifyError, match="whole number"):
        octify.bench({"net": Net()}, X, runtimes=["eager"], **options)


def test_arrays_are_inputs() -> None:
    torch.manual_seed(0)
    net = Net()
    one = octify.convert(net, X, rules="everywhere").plan
    assert octify.convert(net, X.numpy(), rules="everywhere").plan == one
    assert octify.convert(net, (X.numpy(),), rules="everywhere", alpha=np.float32(0.5)).plan == one


@pytest.mark.parametrize("value", [1e30, float("nan"), float("inf"), -1e35])
def test_calibration_values_that_cannot_be_computed_with(value: float) -> None:
    with pytest.raises(OctifyError, match="no usable calibration inputs"):
        octify.convert(
            Net(), X, rules="everywhere", calibration=[torch.full((4, 3, 16, 16), value)], effort="fast"
        )
    with pytest.raises(OctifyError, match="not finite, or too large"):
        hold([torch.full((4, 3, 16, 16), value)], [InputSpec.of(X)])


ITEMS = {
    "a batch": lambda x, y: x,
    "an array": lambda x, y: x.numpy(),
    "a pair": lambda x, y: (x, y),
    "a list": lambda x, y: [x.numpy(), y.numpy()],
    "a nested pair": lambda x, y: ((x,), y),
    "a dict": lambda x, y: {"input": x, "label": y},
    "a dict by name": lambda x, y: {"image": x, "other": x + 1, "labels": y},
    "a dict in a pair": lambda x, y: ({"image": x}, y),
}


@pytest.mark.parametrize("form", ITEMS)
def test_calibration_and_tuning_read_the_same_items(form: str) -> None:
    from octify.calibrate.inputs.items import rows_of

    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    item = ITEMS[form](x, y)
    rows = rows_of(trace(Net(), X), item, 0)
    assert torch.equal(torch.cat([row[0] for row in rows]), x)
    names = ["image"] if "by name" in form else []
    parsed = parse_item(item, [InputSpec.of(X)], "item 0", names=names)
    assert torch.equal(parsed.inputs[0], x)
    if form in ("a batch", "an array"):
        assert parsed.labels is None
    else:
        assert parsed.labels is not None and torch.equal(parsed.labels, y)


@pytest.mark.parametrize(
    "item", [None, 3, "x", (), {}, {"a": X, "b": X}, torch.zeros(3), np.array(["x"]), X[:0]]
)
def test_items_that_are_none_are_told_alike(item: Any) -> None:
    from octify.calibrate.inputs.items import rows_of
    from octify.tune.parse import parse_item as for_tuning

    said = []
    for read in (lambda: rows_of(trace(Net(), X), item, 7), lambda: for_tuning(item, [InputSpec.of(X)], 7)):
        with pytest.raises(OctifyError, match="item 7 of the") as failure:
            read()
        said.append(failure.value.what.replace("calibration ", ""))
    assert said[0] == said[1]

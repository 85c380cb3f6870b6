"""What is one tensor in eval mode and two in training: right in eval mode, right or spoken of in training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octify.trace.proof import proved, runnable
from tests.oracle import EXACT, assert_same

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _maker(package: str, name: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(pytest.importorskip(package), name)(*args, **kwargs)


class Own(nn.Module):
    """Stochastic depth as repositories write it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.5))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    **{
        kind.__name__: kind
        for kind in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, Own)
    },
    "Dropout in place": lambda: nn.Dropout(inplace=True),
    "Dropout2d in place": lambda: nn.Dropout2d(inplace=True),
    "two": lambda: nn.Sequential(nn.Identity(), nn.Dropout(), nn.Identity()),
    "StochasticDepth": _maker("torchvision.ops", "StochasticDepth", 0.5, "row"),
    "DropBlock2d": _maker("torchvision.ops", "DropBlock2d", 0.5, 3),
    "DropPath": _maker("timm.layers", "DropPath", 0.5),
    "timm's DropBlock2d": _maker("timm.layers", "DropBlock2d", 0.5, 3),
}
CALLS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    **{
        f"F.{call.__name__}": lambda x, mode, call=call: call(x, 0.5, mode)
        for call in (F.dropout, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout)
    },
    "F.dropout in place": lambda x, mode: F.dropout(x, 0.5, mode, True),
    "F.rrelu": lambda x, mode: F.rrelu(x, training=mode),
    "torch.dropout": lambda x, mode: torch.dropout(x, 0.5, mode),
    "torch.feature_dropout": lambda x, mode: torch.feature_dropout(x, 0.5, mode),
    "torch.alpha_dropout": lambda x, mode: torch.alpha_dropout(x, 0.5, mode),
    "torch.feature_alpha_dropout": lambda x, mode: torch.feature_alpha_dropout(x, 0.5, mode),
    "stochastic_depth": lambda x, mode: pytest.importorskip("torchvision.ops").stochastic_depth(
        x, 0.5, "row", mode
    ),
    "drop_block2d": lambda x, mode: pytest.importorskip("torchvision.ops").drop_block2d(
        x, 0.5, 3, training=mode
    ),
}


class Net(nn.Module):
    def __init__(self, drop: Any) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = drop

    def apart(self, x: Tensor) -> Tensor:
        result: Tensor = self.drop(x) if isinstance(self.drop, nn.Module) else self.drop(x, self.training)
        return result


class ChangedAfter(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        y = self.apart(x)
        y.add_(1)  # here
        return self.last(y + x)


class ChangedBefore(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        y = self.apart(x)
        x *= 2  # here
        return self.last(y)


class ByALayer(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        y = self.relu(self.apart(x))  # here
        return self.last(y - 0.5 * x)


class AnEntry(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        y = self.apart(x)
        y[:, :2] = 0  # here
        return self.last(y + x)


class Unchanged(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return self.last(self.apart(x).add(1) + x)


class OfItsOwn(Net):
    """Nobody reads the other name."""

    def forward(self, x: Tensor) -> Any:
        y = self.apart(self.conv(x))
        y += 1
        return self.last(self.relu(y))


KINDS = (ChangedAfter, ChangedBefore, ByALayer, AnEntry)


def outputs(model: nn.Module, *, training: bool) -> Tensor:
    model.train(training)
    torch.manual_seed(5)
    result: Tensor = model(X.clone())
    return result.detach()


def agree(model: nn.Module) -> tuple[bool, tuple[str, ...]]:
    """Whether graph and model are the same in training (in eval mode they are), and what is said of it."""
    traced = proved(model, X)
    graph = runnable(traced)
    assert_same(outputs(graph, training=False), outputs(model, training=False), EXACT)
    return torch.equal(outputs(graph, training=True), outputs(model, training=True)), tuple(
        each for each in traced.remarks if "in training" in each
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_change_behind_a_layer_that_is_the_identity_in_eval_mode(kind: type[Net], name: str) -> None:
    same, said = agree(kind(LAYERS[name]()))
    assert same == (not said)
    lines, start = inspect.getsourcelines(kind)
    (line,) = [start + n for n, text in enumerate(lines) if text.rstrip().endswith("here")]
    assert all(f"{__file__}:{line})" in each or "class Own" in each for each in said)


@pytest.mark.parametrize("kind", [*KINDS, Unchanged])
@pytest.mark.parametrize("name", CALLS)
def test_functions_that_go_by_the_mode_are_spoken_of(kind: type[Net], name: str) -> None:
    same, said = agree(kind(CALLS[name]))
    assert same == (not said) and all(f"{__file__}:" in each for each in said)
    assert said or (kind, name) == (ByALayer, "F.rrelu")  # what is random there is cut off


@pytest.mark.parametrize("kind", [Unchanged, OfItsOwn])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Own"])
def test_layers_alone_are_right_and_not_spoken_of(kind: type[Net], name: str) -> None:
    if (kind, name) == (Unchanged, "Dropout in place"):
        return  # it changes x itself, as ChangedAfter does
    assert agree(kind(LAYERS[name]())) == (True, ())

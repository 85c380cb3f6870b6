"""What a converted model does otherwise in training is said, with the line of the model's code."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.drop = nn.Dropout()
        self.h = nn.Linear(16, 3)
        self.register_buffer("centre", torch.zeros(16))


class Drop(Base):
    def forward(self, x: Tensor) -> Any:
        return self.h(F.dropout(self.b(F.relu(self.a(x))).mean((2, 3)), 0.5, training=self.training))  # here


class Norm(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.b(self.a(x))
        own = self.bn
        y = F.batch_norm(y, own.running_mean, own.running_var, own.weight, own.bias, self.training)  # here
        return self.h(y.mean((2, 3)))


class Auxiliary(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = self.h(self.b(y).mean((2, 3)))
        return (z, self.h(y.mean((2, 3)))) if self.training else z  # here


class NoGrad(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():  # here
            y = self.bn(self.a(x))
        return self.h(self.b(y).mean((2, 3)))


class Average(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.b(self.a(x)).mean((2, 3))
        if self.training:  # here
            self.centre.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return self.h(y - self.centre)


class Decorated(Base):
    @torch.no_grad()  # here
    def features(self, x: Tensor) -> Any:
        return self.a(x)

    def forward(self, x: Tensor) -> Any:
        return self.h(self.b(self.features(x)).mean((2, 3)))  # or here


class Switched(Base):
    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(False):  # here
            y = self.a(x)
        return self.h(self.b(y).mean((2, 3)))


class AsksForGradients(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if torch.is_grad_enabled():
            y = y + 0.1 * torch.randn_like(y)
        return self.h(self.b(y).mean((2, 3)))


class AlwaysOn(Base):
    """Its dropout knows no eval mode."""

    def forward(self, x: Tensor) -> Any:
        return self.h(F.dropout(self.b(self.a(x)), 0.1).mean((2, 3)))


class Checkpointed(Base):
    def forward(self, x: Tensor) -> Any:
        y = torch.utils.checkpoint.checkpoint(self.a, x, use_reentrant=False)
        return self.h(self.b(y).mean((2, 3)))


class Layers(Base):
    """All that depends on the mode are layers, which are kept."""

    def forward(self, x: Tensor) -> Any:
        return self.h(self.drop(self.bn(self.b(self.a(x)))).mean((2, 3)))


class Detached(Base):
    def forward(self, x: Tensor) -> Any:
        return self.h(self.b(self.a(x).detach()).mean((2, 3)))


class Asked(Base):
    """It asks, and does the same."""

    def forward(self, x: Tensor) -> Any:
        y = F.dropout(self.a(x), 0.0, self.training)
        return self.h(self.b(y).mean((2, 3)))


class Thaws(Base):
    """Its norm stays frozen in training."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        return self.h(self.bn(self.b(self.a(x))).mean((2, 3)))


def told(kind: Any, *, training: bool) -> list[str]:
    torch.manual_seed(0)
    model = kind().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    warnings = octify.convert(model, X, rules="everywhere").report.warnings
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training is training
    return [each for each in warnings if "in training" in each or "train()" in each]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [Drop, Norm, Auxiliary, NoGrad, Average, Decorated, Switched])
def test_code_that_goes_by_the_mode_is_named(kind: Any, training: bool) -> None:
    lines, start = inspect.getsourcelines(kind)
    (sentence,) = told(kind, training=training)
    places = [f"{__file__}:{start + n}" for n, line in enumerate(lines) if line.rstrip().endswith("here")]
    assert any(f"({place})" in sentence for place in places)


@pytest.mark.parametrize("kind", [Layers, Detached, Asked, AlwaysOn, Checkpointed])
def test_what_is_the_same_in_training_is_not_spoken_of(kind: Any) -> None:
    assert told(kind, training=True) == []


@pytest.mark.parametrize("kind", [Layers, Detached, Asked, AlwaysOn, Checkpointed])
def test_and_it_is_the_same(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind().train()
    made = octify.convert(model, X, alpha=0.0, rules="everywhere").model
    results = []
    for each in (model, made):
        torch.manual_seed(1)
        y = each(X)
        y.sum().backward()
        results.append(y.detach())
    assert torch.equal(*results)
    grads = dict(made.named_parameters())
    for name, parameter in model.named_parameters():
        if name in grads:
            assert (parameter.grad is None) == (grads[name].grad is None)
    buffers = dict(made.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers() if name in buffers)


def test_a_norm_that_the_models_own_train_freezes_is_named() -> None:
    (sentence,) = told(Thaws, training=True)
    assert "bn" in sentence


class Counts(Base):
    def forward(self, x: Tensor) -> Any:
        self.centre += 1
        return self.h(self.b(self.a(x)).mean((2, 3)) * self.centre)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [(Counts, "buffers centre"), (AsksForGradients, "is_grad_enabled")],
)
def test_a_refusal_names_the_cause(kind: Any, cause: str) -> None:
    with pytest.raises(octify.OctifyError, match=cause):
        octify.convert(kind().eval(), X, rules="everywhere")


def test_hooks_that_only_keep_are_spoken_of() -> None:
    block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), block, nn.Conv2d(16, 16, 3, padding=1)).eval()
    kept: list[Tensor] = []
    block.register_forward_hook(lambda module, args, y: kept.append(y))
    model[2].register_forward_hook(lambda module, args, y: kept.append(y))
    warnings = octify.convert(model, X, rules="everywhere").report.warnings
    (sentence,) = [each for each in warnings if "hooks" in each]
    assert "hooks of 1:" in sentence  # the last convolution has them still


def test_no_hooks_no_sentence() -> None:
    warnings = octify.convert(Layers().eval(), X, rules="everywhere").report.warnings
    assert not any("hooks" in each for each in warnings)


class UnreadDropout(Base):
    """It draws random numbers for nothing."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        F.dropout(y, 0.5, self.training)
        self.drop(y)
        return self.h(self.drop(self.b(y)).mean((2, 3)))


class DropoutNotReached(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if x.shape[1] == 4:
            y = self.drop(y)
        rate = 0.0
        if rate > 0 and self.training:
            y = F.dropout(y, rate)
        return self.h(self.b(y).mean((2, 3)))


class DropoutOfNothing(Base):
    """Dropout of rate 0 returns its input itself in training, too."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = F.dropout(y, 0.0, self.training)
        z += 1
        return self.h(self.b(y + z).mean((2, 3)))


class Noise(Base):
    """A random number more in training, which is read."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.training:
            y = y + torch.randn_like(y)
        return self.h(self.drop(self.b(y)).mean((2, 3)))


@pytest.mark.parametrize("kind", [UnreadDropout, DropoutNotReached, DropoutOfNothing])
def test_dropout_that_does_nothing_is_not_spoken_of(kind: Any) -> None:
    assert told(kind, training=False) == []


def test_noise_of_training_is_told() -> None:
    assert len(told(Noise, training=False)) == 1


class NeedsTargets(Base):
    def forward(self, x: Tensor, targets: Any = None) -> Any:
        y = self.h(self.b(self.a(x)).mean((2, 3)))
        if self.training and targets is None:
            raise ValueError("targets, please")  # here
        return y


class EvalOnly(Base):
    def forward(self, x: Tensor) -> Any:
        assert not self.training  # here
        return self.h(self.b(self.a(x)).mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [NeedsTargets, EvalOnly])
def test_a_model_that_stops_in_training_is_told(kind: Any, training: bool) -> None:
    (sentence,) = told(kind, training=training)
    lines, start = inspect.getsourcelines(kind)
    place = next(start + n for n, line in enumerate(lines) if line.rstrip().endswith("here"))
    assert "was not compared" in sentence and "Error" in sentence and f"({__file__}:{place})" in sentence

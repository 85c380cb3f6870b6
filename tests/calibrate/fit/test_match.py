"""BatchNorm statistics: the outputs' moments become the original's, and what is unchanged is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.calibrate.fit.match import match_norms
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace


def _net(wide: int = 16, affine: bool = True) -> nn.Sequential:
    def part(narrow: int) -> list[nn.Module]:
        return [
            nn.Conv2d(narrow, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide, affine=affine),
            nn.ReLU(),
        ]

    net = nn.Sequential(*part(3), *part(wide), *part(wide), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(wide, 5)).train()
    for _ in range(20):
        net(torch.randn(16, 3, 16, 16))
    return net.eval()


def _images(count: int, size: float = 0.5) -> Tensor:
    x = torch.randn(count, 3, 16, 16)
    return size * (x + nn.functional.avg_pool2d(x, 5, 1, 2) * 3)


@pytest.mark.parametrize("affine", [True, False])
def test_every_norm_gives_the_mean_and_deviation_of_the_original(affine: bool) -> None:
    """On both branches; exactly so but for what the old statistics count."""
    torch.manual_seed(0)
    net, x = _net(affine=affine), _images(200)
    traced = trace(copy.deepcopy(net), x[:1])
    rewritten = rewrite(traced, make_plan(traced, load_rules("everywhere"), 0.5))
    assert match_norms(copy.deepcopy(traced), rewritten, [(x[:100],), (x[100:],)]) > 0
    found: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        return lambda module, args, y: found.__setitem__(name, y)

    for name, module in [*net.named_modules(), *rewritten.module.named_modules()]:
        module.register_forward_hook(keep(name))  # type: ignore[arg-type]
    with torch.no_grad():
        rewritten.module(x)
        made = dict(found)
        net(x)
    for name in ("1", "4", "7"):
        module = rewritten.module.get_submodule(name)
        its = made[name] if isinstance(made[name], tuple) else (made[name],)
        wanted = found[name]
        if len(its) == 2:
            low = rewritten.resolved.mask({"1": "_1", "4": "_4", "7": "_7"}[name])
            assert low is not None
            mask = torch.as_tensor(low)
            parts = [(its[0], wanted[:, ~mask]), (its[1], wanted[:, mask])]
        else:
            parts = [(its[0], wanted)]
        for given, target in parts:
            if given is None:
                continue
            mean, deviation = target.mean((0, 2, 3)), target.std((0, 2, 3))
            assert float(((given.mean((0, 2, 3)) - mean) / deviation).abs().max()) < 0.05, (name, module)
            assert float((given.std((0, 2, 3)) / deviation - 1).abs().max()) < 0.05


def test_what_reads_the_same_is_left_alone() -> None:
    """Whatever the images: the norms in front of the first octave convolution keep their statistics."""
    torch.manual_seed(0)
    net, x = _net(), _images(64, 0.1)
    made = octify.convert(
        net, x[:1], 0.5, "everywhere", exclude=("0", "3"), calibration=[x], effort="norm"
    ).model
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(made.get_buffer(name), net.get_buffer(name))


@pytest.mark.parametrize("size", [0.1, 0.5, 4.0])
def test_images_of_another_contrast_than_the_training_images(size: float) -> None:
    """The error is not larger than without calibration: re-estimated statistics made it many times as large."""
    torch.manual_seed(0)
    net, x = _net(32), _images(96, size)

    def error(**settings: object) -> float:
        made = octify.convert(net, x[:1], 0.25, "everywhere", **settings).model.eval()  # type: ignore[arg-type]
        with torch.no_grad():
            return float((made(x) - net(x)).norm())

    assert error(calibration=[x], effort="norm") <= error()


def test_the_original_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net, x = _net(), _images(48)
    before = copy.deepcopy(net.state_dict())
    octify.convert(net, x[:1], 0.5, "everywhere", calibration=[x], effort="norm")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())

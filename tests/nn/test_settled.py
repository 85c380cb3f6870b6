"""Hyper-parameters that were set after a layer was made are those that count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

import octify
from octify.errors import PlanError
from octify.nn import OctaveConv1d, OctaveConv2d, OctaveConv3d
from tests.oracle import EXACT, assert_same, noise


def changes(**settings: Any) -> Callable[[nn.Module], None]:
    def apply(layer: nn.Module) -> None:
        for name, value in settings.items():
            setattr(layer, name, value)

    return apply


def reweighted(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(0)))
    layer.padding = 0


CONV: dict[str, Callable[[nn.Module], None]] = {
    "stride": changes(stride=(2, 2)),
    "stride, a number": changes(stride=2),
    "dilation for stride": changes(dilation=(2, 2), padding=(2, 2)),
    "dilation, numbers": changes(dilation=2, padding=2),
    "larger padding": changes(padding=(2, 2)),
    "less padding": changes(padding=(0, 1), dilation=(1, 1)),
    "padding by word": changes(padding="same"),
    "valid": changes(padding="valid", dilation=(2, 2)),
    "padding mode": changes(padding_mode="replicate"),
    "padding mode with a padding it does not read": changes(padding_mode="replicate", padding=(3, 3)),
    "kernel": reweighted,
    "no bias": changes(bias=None),
    "stale counts": changes(in_channels=99, out_channels=98, kernel_size=(7, 7)),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], None]]] = {
    "BatchNorm eps": (lambda: nn.BatchNorm2d(8), changes(eps=0.5, num_features=3)),
    "InstanceNorm eps": (lambda: nn.InstanceNorm2d(8), changes(eps=0.5)),
    "GroupNorm groups": (lambda: nn.GroupNorm(2, 8), changes(num_groups=4)),
    "MaxPool": (lambda: nn.MaxPool2d(2), changes(kernel_size=3, stride=2, padding=1)),
    "AvgPool": (lambda: nn.AvgPool2d(3, 1, 1), changes(count_include_pad=False)),
    "LPPool": (lambda: nn.LPPool2d(2, 4), changes(kernel_size=2, stride=2)),
    "AdaptiveAvgPool": (lambda: nn.AdaptiveAvgPool2d(2), changes(output_size=(4, 6))),
    "LeakyReLU": (lambda: nn.LeakyReLU(), changes(negative_slope=0.4)),
    "PReLU count": (lambda: nn.PReLU(8), changes(num_parameters=1)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), changes(scale_factor=3.0)),
    "PixelShuffle": (lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.PixelShuffle(2)), changes()),
    "ZeroPad": (lambda: nn.ZeroPad2d(1), changes(padding=(2, 2, 2, 2))),
    "ReLU in place": (lambda: nn.ReLU(), changes(inplace=True)),
    "transposed": (
        lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1),
        changes(stride=1, padding=(1, 2), output_padding=0),
    ),
}


class Residual(nn.Module):
    """Two convolutions side by side, the second changed so that sizes still agree."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8))
        self.b.dilation, self.b.padding = (2, 2), 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y + self.b(y.relu())


@torch.no_grad()
def check(net: nn.Module) -> None:
    torch.manual_seed(0)
    net, x = net.double().eval(), noise(2, 3, 16, 24)
    assert_same(octify.convert(net, x, 0.0, rules="everywhere").model(x), net(x), EXACT)
    made = octify.convert(net, x, rules="everywhere", kernels="exact")
    expected = octify.reference(net, made.plan, x)(x)
    assert made.model(x).shape == net(x).shape
    odd = any(n % 2 for n in net[:2](x).shape[2:]) if isinstance(net, nn.Sequential) else False
    if not odd:  # the border of an odd octave map is not the reference's
        assert_same(made.model(x), expected, EXACT)


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize("name", CONV)
def test_a_convolution_is_what_it_computes_now(name: str) -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1).eval()
    CONV[name](layer)
    before = {key: value for key, value in vars(layer).items() if not key.startswith("_p")}
    check(between(layer))
    assert {key: vars(layer)[key] for key in before} == before, "the user's layer is left alone"


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_it_computes_now(name: str) -> None:
    make, change = LAYERS[name]
    layer = make()
    change(layer)
    check(between(layer))


def test_two_branches_whose_sizes_agree_only_now() -> None:
    check(Residual())


@pytest.mark.parametrize("kind", [OctaveConv1d, OctaveConv2d, OctaveConv3d])
@pytest.mark.parametrize(
    "setting", [{"kernels": "best"}, {"exchange": "none"}, {"kernels": None}, {"exchange": 1}]
)
def test_unknown_words_are_answered_with_the_known_ones(kind: Any, setting: dict[str, Any]) -> None:
    known = "'paper', 'exact'" if "kernels" in setting else "'full', 'spatial', 'high-to-low'"
    with pytest.raises(PlanError, match=known):
        kind(4, 4, 3, **setting)


class Kept(nn.Module):
    """A constant that the forward brings to the input's type, and keeps."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
        if buffer:
            self.register_buffer("mean", mean)
        else:
            self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.to(x.device).type_as(x)
        return self.b(self.a((x - self.mean) * 2))


@pytest.mark.parametrize("buffer", [False, True])
def test_a_constant_that_forward_keeps_anew(buffer: bool) -> None:
    check(Kept(buffer))


PRUNINGS: dict[str, Callable[[nn.Module], Any]] = {
    "l1": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    "random": lambda conv: prune.random_unstructured(conv, "weight", 0.3),
    "channels": lambda conv: prune.ln_structured(conv, "weight", 0.5, n=2, dim=0),
    "custom": lambda conv: prune.custom_from_mask(conv, "weight", torch.ones_like(conv.weight).triu()),
}


@pytest.mark.parametrize("name", PRUNINGS)
def test_pruned_convolutions_convert_with_their_masks(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).double()
    with torch.no_grad():  # or the masked weights have a history, and cannot be copied
        for conv in (net[0], net[2]):
            PRUNINGS[name](conv)
        net(noise(1, 3, 8, 8))
    check(net)
    report = octify.convert(net.eval(), noise(1, 3, 8, 8), rules="everywhere").report.to_dict()
    assert report["totals"]["converted"] == 2
    assert any("masks of pruned layers are folded" in warning for warning in report["warnings"])


COMPUTED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "weight norm": (parametrizations.weight_norm, "weight norm is baked"),
    "spectral norm": (parametrizations.spectral_norm, "spectral norm is baked"),
    "two steps": (
        lambda conv: parametrize.register_parametrization(
            parametrizations.spectral_norm(conv), "weight", Doubled()
        ),
        "spectral norm is baked",
    ),
    "own": (lambda conv: parametrize.register_parametrization(conv, "weight", Doubled()), "Doubled is baked"),
    "weight norm by a hook": (hooked_weight_norm, "weight norm is baked"),
    "spectral norm by a hook": (hooked_spectral_norm, "spectral norm is baked"),
}


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_convert_and_the_report_says_so(name: str) -> None:
    compute, told = COMPUTED[name]
    torch.manual_seed(0)
    net = between(nn.Conv2d(8, 8, 3, padding=1)).double()
    compute(net[1])
    with torch.no_grad():
        net.train()(noise(2, 3, 16, 24))
    check(net)
    warnings = octify.convert(net, noise(1, 3, 8, 8), rules="everywhere").report.to_dict()["warnings"]
    assert [told in warning for warning in warnings].count(True) == 1
    assert "(1)" in next(warning for warning in warnings if told in warning)

"""Calibration lowers the error of real architectures, one small model for each of more than twenty families.

The weights are random, the norms' statistics settled. A deep net of random weights is chaotic: what an octave
layer takes out is multiplied by all that follow, and by the end two outputs have nothing in
common, calibrated or not. Trained nets are not like that, so norms are set to make the random ones tame too:
the offsets to LIFTED deviations, so that activations seldom clip, and the last norm of each residual branch
(told by its starting at 0) to DAMPED, so that a block changes its input a little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import octify
from tests.models.zoo import settle

SIZE, IMAGES, HELD_OUT = 64, 48, 32
DAMPED, LIFTED = 0.3, 1.0


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from timm import create_model

        return create_model(name, num_classes=10, **options)

    return build


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import get_model

        return get_model(name, weights=None, num_classes=10, **options)

    return build


def vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    layers = make_layers([16, "M", 32, "M", 64, 64, "M", 64, 64, "M", 64, 64, "M"], batch_norm=True)
    model = VGG(layers, num_classes=10)
    model.classifier = nn.Sequential(nn.Linear(64 * 49, 64), nn.ReLU(), nn.Linear(64, 10))
    return model


def resnet(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A narrow relative of timm's ResNet ``name``: a quarter of the channels."""
    return timm(name, channels=(16, 32, 64, 128), **options)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "LCNet": timm("lcnet_035"),
    "MobileNetV3": timm("mobilenetv3_small_050"),
    "MobileNetV2": timm("mobilenetv2_035"),
    "RegNetX": timm("regnetx_002"),
    "RegNetY": timm("regnety_002"),
    "GhostNet": timm("ghostnet_050"),
    "MNASNet": timm("mnasnet_small"),
    "EfficientNet": timm("tinynet_e"),
    "ShuffleNetV2": torchvision("shufflenet_v2_x0_5"),
    "SqueezeNet": torchvision("squeezenet1_1"),
    "VGG": vgg,
    "DenseNet": timm("densenet121", growth_rate=16, block_config=(2, 2, 2, 2)),
    "VoVNet": timm("ese_vovnet19b_slim_dw"),
    "DLA": timm("dla46_c"),
    "ConvNeXt": timm("convnext_atto", dims=(16, 32, 64, 96), depths=(1, 1, 2, 1)),
    "RepVGG": timm("repvgg_a0", width_factor=0.25),
    "ResNet": resnet("resnet18"),
    "ResNet-D": resnet("resnet14t"),
    "ResNeXt": resnet("resnext50_32x4d", layers=(1, 1, 1, 1), cardinality=4, base_width=16),
    "SE-ResNet": resnet("seresnet18"),
    "SKNet": resnet("skresnet18"),
    "ResNeSt": resnet("resnest14d"),
    "Res2Net": resnet("res2net50_14w_8s", layers=(1, 1, 1, 1), base_width=16),
    "pre-activation ResNet": timm("resnetv2_18", channels=(16, 32, 64, 128)),
    "MixNet": timm("mixnet_s"),
}


def smooth(count: int, seed: int) -> Tensor:
    """Random images (count, 3, SIZE, SIZE) with a spectrum as photographs have it: amplitude about 1 / f."""
    generator = torch.Generator().manual_seed(seed)
    octaves = [
        F.interpolate(torch.randn(count, 3, n, n, generator=generator), size=SIZE, mode="bilinear")
        for n in (2, 4, 8, 16, 32)
    ]
    return sum((x / 2**i for i, x in enumerate(octaves)), torch.zeros(()))


RULES = """
name = "large maps"
description = "Everything but the maps that half resolution leaves little of."

[settings]
uneven_groups = true

[[rule]]
match = { size = "<8" }
output = "dense"
reason = "hardly a map"
"""


def tame(model: nn.Module) -> None:
    """See above."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            if bool(module.weight.any()):
                nn.init.constant_(module.bias, LIFTED)
            else:
                nn.init.constant_(module.weight, DAMPED)


@torch.no_grad()
def errors_of(family: str, rules: Path) -> dict[str, float]:
    """Held-out relative output errors: uncalibrated and behind every effort."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    tame(model)
    settle(model, [smooth(32, 1), smooth(32, 2)])
    data, test = smooth(IMAGES, 3), smooth(HELD_OUT, 4)
    wanted = model(test)
    spread = (wanted - wanted.mean(0)).norm()
    found = {}
    for effort in (None, "norm", "fast", "standard"):
        with torch.enable_grad():
            result = octify.convert(
                model,
                data[:1],
                alpha=0.25,
                rules=rules,
                calibration=effort and [data],
                effort=effort or "standard",
            )
        assert any(conv.converted for conv in result.plan.convs)
        found[effort or "none"] = float((result.model(test) - wanted).norm() / spread)
    return found


@pytest.mark.zoo
@pytest.mark.parametrize("family", FAMILIES)
def test_calibration_lowers_the_output_error(family: str, tmp_path: Path) -> None:
    rules = tmp_path / "large.toml"
    rules.write_text(RULES)
    error = errors_of(family, rules)
    assert error["fast"] < min(error["none"], error["norm"]), error
    assert error["standard"] < min(error["none"], error["norm"]), error

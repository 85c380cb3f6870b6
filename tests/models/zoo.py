"""The real models that the tests convert, and how they are made fit to be measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples"


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    size:
        Side of the square input at which all its maps have even sizes (down to 2x2 or 4x4).
    small:
        The same, as small as that can be: for the default suite.
    """

    name: str
    build: Callable[[], nn.Module]
    size: int = 128
    small: int = 64
    channels: int = 3

    def example(self, size: int | None = None, batch: int = 2) -> Tensor:
        """A seeded random input (batch, channels, size, size)."""
        generator = torch.Generator().manual_seed(1)
        side = size or self.size
        return torch.randn(batch, self.channels, side, side, generator=generator)


def _torchvision(name: str) -> Entry:
    def build() -> nn.Module:
        import torchvision

        options = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, **options)

    return Entry(f"torchvision:{name}", build)


def _timm(name: str) -> Entry:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name)

    return Entry(f"timm:{name}", build)


def _sample(name: str, **sizes: int) -> Entry:
    def build() -> nn.Module:
        spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.build_model()

    return Entry(f"samples/{name}.py", build, **sizes)


ENTRIES = (
    _torchvision("resnet18"),
    _torchvision("resnet50"),
    _torchvision("resnext50_32x4d"),
    _torchvision("vgg16_bn"),
    _torchvision("densenet121"),
    _torchvision("mobilenet_v2"),
    _torchvision("googlenet"),
    _timm("seresnet50"),
    _timm("resnet26d"),
    _timm("regnety_002"),
    _timm("efficientnet_b0"),
    _sample("resnet"),
    _sample("vgg", size=224, small=224),  # its classifier fixes the size, and its last maps are odd
    _sample("mobilenetv2_se"),
    _sample("unet"),
    _sample("digits_resnet", size=64, small=32, channels=1),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}
NAMES = tuple(BY_NAME)


def build(name: str, settle_at: int | None = None) -> nn.Module:
    """The model ``name`` in eval mode, the same at every call; with settled norms unless told otherwise.

    settle_at:
        Side of the inputs that the norms' statistics are taken from; 0 leaves them as they are.
    """
    entry = BY_NAME[name]
    torch.manual_seed(0)
    model = entry.build()
    side = entry.small if settle_at is None else settle_at
    if side:
        settle(model, [entry.example(side, batch=8)])
    return model.eval()


def settle(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Give the BatchNorms of an untrained model the statistics of ``inputs``, in place, and eval mode.

    With the initial ones (mean 0, variance 1) a deep untrained net multiplies rounding errors until
    nothing can be told from its outputs.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the passes
        norm.train()  # the norms alone: nothing is dropped, and no training-only branch runs
    with torch.no_grad():
        for x in inputs:
            model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

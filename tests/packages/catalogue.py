"""Models of other packages that convert whole: how each is made, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

INSTALL = {
    "ultralytics": "pip install -c constraints.txt -e '.[test,packages]'",
    "segmentation_models_pytorch": "pip install -c constraints.txt -e '.[test,packages]'",
    "monai": "pip install -c constraints.txt -e '.[test,packages]'",
    "transformers": "pip install -c constraints.txt -e '.[test,packages]'",
}


@dataclass(frozen=True)
class Entry:
    """A model of a package.

    channels:
        Of its input.
    build:
        Makes it; the package is imported then.
    """

    package: str
    name: str
    channels: int
    build: Callable[[], nn.Module]

    def __str__(self) -> str:
        return self.name


def _yolo(config: str) -> nn.Module:
    tasks: Any = import_module("ultralytics.nn.tasks")
    model: nn.Module = tasks.DetectionModel(f"{config}.yaml", ch=3, nc=80, verbose=False)
    return model


def _smp(name: str) -> nn.Module:
    package: Any = import_module("segmentation_models_pytorch")
    model: nn.Module = getattr(package, name)(encoder_name="resnet18", encoder_weights=None, classes=2)
    return model


_PLAIN: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
_LEVELS: dict[str, Any] = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
_MONAI: dict[str, dict[str, Any]] = {
    "UNet": {**_PLAIN, **_LEVELS, "num_res_units": 2},
    "BasicUNet": _PLAIN,
    "BasicUNetPlusPlus": _PLAIN,
    "AttentionUnet": {**_PLAIN, **_LEVELS},
    "DynUNet": {
        **_PLAIN,
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
    },
    "SegResNet": {**_PLAIN, "init_filters": 16},
    "FlexibleUNet": {"in_channels": 3, "out_channels": 2, "backbone": "resnet18", "pretrained": False},
}


def _monai(name: str) -> nn.Module:
    package: Any = import_module("monai.networks.nets")
    model: nn.Module = getattr(package, name)(**_MONAI[name])
    return model


_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ResNet": {
        "layer_type": "basic",
        "depths": [2, 2, 2, 2],
        "hidden_sizes": [64, 128, 256, 512],
        "embedding_size": 64,
    },
    "ConvNext": {"depths": [2, 2, 4, 2]},
    "MobileNetV2": {},
    "RegNet": {"depths": [1, 2, 4, 2], "hidden_sizes": [64, 128, 256, 512], "groups_width": 32},
    "EfficientNet": {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "image_size": 224,
        "hidden_dim": 1280,
    },
}


def _transformers(name: str) -> nn.Module:
    package: Any = import_module("transformers")
    config = getattr(package, f"{name}Config")(**_TRANSFORMERS[name])
    model: nn.Module = getattr(package, f"{name}ForImageClassification")(config)
    return model


SMP = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus")

ENTRIES = (
    *(Entry("ultralytics", name, 3, lambda name=name: _yolo(name)) for name in ("yolov8n", "yolo11n")),
    *(Entry("segmentation_models_pytorch", name, 3, lambda name=name: _smp(name)) for name in SMP),
    *(
        Entry("monai", name, 3 if name == "FlexibleUNet" else 1, lambda name=name: _monai(name))
        for name in _MONAI
    ),
    *(Entry("transformers", name, 3, lambda name=name: _transformers(name)) for name in _TRANSFORMERS),
)


def of(package: str) -> list[Entry]:
    """The entries of one package."""
    return [entry for entry in ENTRIES if entry.package == package]

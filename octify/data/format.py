"""Conversion of image files to inputs, and the type of an opened data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from octify.errors import OctifyError

if TYPE_CHECKING:
    from torch import nn


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP_SHARE = 0.875


@dataclass(frozen=True)
class ImageFormat:
    """Conversion of an image file to an input (C, H, W).

    resize:
        Length in pixels of the shorter side before cropping.
    crop:
        Height and width of the crop from the centre.
    mean, std:
        Per-channel mean and standard deviation of pixels scaled to [0, 1].
    assumed:
        Whether mean and std are assumptions.
    bgr:
        Whether channels (and mean and std) are in BGR order, as OpenCV reads them.
    """

    channels: int
    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: bool
    bgr: bool = False


@dataclass
class Data:
    """Calibration inputs. ``skipped`` grows while they are read: skipped files, with reasons."""

    inputs: Iterable[Any]
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def image_format(
    model: nn.Module,
    shape: Sequence[int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    *,
    bgr: bool = False,
) -> ImageFormat:
    """Format of a model's images; parameters that are None come from a timm model's configuration.

    Without a configuration: ImageNet's mean and deviation for three channels, 0 and 1 otherwise, and a
    shorter side of crop / 0.875. ``shape`` is (N, C, H, W).
    """
    if len(shape) != 4:
        raise OctifyError(
            "image files need a model that takes images",
            why=f"its input is {'x'.join(map(str, shape))}",
            hint="give a tensor file, or file.py:loader",
        )
    channels, height, width = shape[1:]
    if bgr and channels != 3:
        raise OctifyError(f"images of {channels} channels have no blue and red", hint="leave --bgr out")
    config: dict[str, Any] = (
        getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    )
    configured = tuple(config.get("mean") or ()), tuple(config.get("std") or ())
    guess = (_IMAGENET_MEAN, _IMAGENET_STD) if channels == 3 else ((0.0,) * channels, (1.0,) * channels)
    assumed = (mean is None or std is None) and not all(len(k) == channels for k in configured)
    if bgr:
        guess = guess[0][::-1], guess[1][::-1]
    base = guess if assumed else (configured if all(len(k) == channels for k in configured) else guess)
    size = (crop, crop) if crop else (height, width)
    share = float(config.get("crop_pct") or _CROP_SHARE)
    return ImageFormat(
        channels,
        resize or round(min(size) / share),
        size,
        _per_channel(mean, channels, "--mean") or base[0],
        _per_channel(std, channels, "--std") or base[1],
        assumed,
        bgr,
    )


def _per_channel(values: Sequence[float] | None, channels: int, option: str) -> tuple[float, ...]:
    if values is None:
        return ()
    if len(values) not in (1, channels):
        raise OctifyError(
            f"{option} has {len(values)} numbers", why=f"the model's images have {channels} channels"
        )
    return tuple(values) * (channels if len(values) == 1 else 1)

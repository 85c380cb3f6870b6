"""Models of timm and torchvision by name, without pretrained weights: nothing is downloaded."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import keywords_only
from octify.source.offline import import_extra, refuse_downloads
from octify.source.target import ModelSpec


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Build a model of timm or torchvision; return it and the shape of its input, where it has one."""
    name = str(target.name)
    options = keywords_only(target.arguments, f"{target.kind}:{name}(num_classes=10)")
    make = timm_model if target.kind == "timm" else torchvision_model
    model, shape = make(name, options)
    return model, [shape] if shape else []


def timm_model(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, str | None]:
    """The timm model ``name`` and the input shape of its own configuration."""
    refuse_downloads("timm", options, ("pretrained", "checkpoint_path", "pretrained_cfg"))
    timm: Any = import_extra("timm", "zoo")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    model = _create("timm", name, lambda: timm.create_model(name, **{**options, "pretrained": False}))
    config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    return model, _shape(config.get("input_size"))


def torchvision_model(name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, str | None]:
    """The torchvision model ``name`` (segmentation and video too); a shape for video models only."""
    refuse_downloads("torchvision", arguments, ("weights", "weights_backbone"))
    torchvision: Any = import_extra("torchvision", "zoo").models
    try:
        builder = torchvision.get_model_builder(name)
    except ValueError as error:
        raise _unknown("torchvision", name, torchvision.list_models()) from error
    options: dict[str, Any] = {**arguments, "weights": None}
    # Segmentation and detection builders would download a pretrained backbone.
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None
    model = _create("torchvision", name, lambda: torchvision.get_model(name, **options))
    is_video = builder.__module__.startswith("torchvision.models.video")
    return model, _video_shape(torchvision, name) if is_video else None


def _create(zoo: str, name: str, create: Any) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # The user cannot act on deprecations inside the zoo's constructors.
            warnings.simplefilter("ignore")
            model = create()
    except Exception as error:
        raise SourceError(f"{zoo} cannot build {name}", why=f"{type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise SourceError(f"{zoo}:{name} is a {type(model).__name__}, not an nn.Module")
    return model


def _unknown(zoo: str, name: str, names: Sequence[str]) -> SourceError:
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return SourceError(
        f"{zoo} has no model {name!r}",
        why=f"it has {len(names)} models" + (f", among them {', '.join(close)}" if close else ""),
        hint=f"{zoo}:{close[0] if close else 'resnet50'}",
    )


def _shape(sizes: Sequence[int] | None) -> str | None:
    """A batch of one of ``sizes`` (channels, height, width), as typed: ``1x3x224x224``."""
    return "x".join(str(size) for size in (1, *sizes)) if sizes else None


def _video_shape(torchvision: Any, name: str) -> str | None:
    """Sixteen frames of the size the published weights were trained at."""
    try:
        crop = torchvision.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    except (AttributeError, KeyError, ValueError):
        crop = (112, 112)
    return _shape((3, 16, *crop))

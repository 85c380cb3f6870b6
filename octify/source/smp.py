"""Models of segmentation_models_pytorch (``smp:Unet(encoder_name="resnet34")``), without downloads."""

from __future__ import annotations

import difflib
import inspect

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import keywords_only
from octify.source.offline import failed, import_extra, offline, refuse_downloads
from octify.source.target import ModelSpec

_EXAMPLE = "'smp:Unet(encoder_name=\"resnet34\", classes=2)'"


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Build an architecture with random weights; return it and the shape of its input.

    Raises SourceError: no such architecture or encoder, wrong arguments, or trained weights by name.
    """
    options = keywords_only(target.arguments, _EXAMPLE)
    refuse_downloads("segmentation_models_pytorch", options, ("encoder_weights",))
    package = import_extra("segmentation_models_pytorch", "smp")
    name = str(target.name)
    kinds = {
        entry: value
        for entry, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    if name not in kinds:
        close = difflib.get_close_matches(name, kinds, n=1, cutoff=0.5)
        raise SourceError(
            f"segmentation_models_pytorch has no architecture {name!r}",
            why=f"it has {', '.join(kinds)}",
            hint=f"smp:{close[0] if close else 'Unet'}",
        )
    encoder = options.get("encoder_name", "resnet34")
    parameters = inspect.signature(kinds[name]).parameters
    unknown = [key for key in options if key not in parameters]
    if unknown and not str(encoder).startswith("tu-"):  # whose timm encoder takes more
        raise SourceError(
            f"{name} has no parameter {unknown[0]}",
            why=f"it has {', '.join(key for key in parameters if key not in ('args', 'kwargs'))}",
            hint=_EXAMPLE,
        )
    encoders = package.encoders.get_encoder_names()
    if encoder not in encoders and not str(encoder).startswith("tu-"):
        near = difflib.get_close_matches(str(encoder), encoders, n=4)
        raise SourceError(
            f"segmentation_models_pytorch has no encoder {encoder!r}",
            why=f"it has {len(encoders)}" + (f", among them {', '.join(near)}" if near else ""),
            hint=_EXAMPLE + ", or tu- before the name of a timm model",
        )
    with offline("segmentation_models_pytorch"):
        try:
            model: nn.Module = kinds[name](**{**options, "encoder_weights": None})
        except Exception as error:
            raise failed(f"smp:{name}{target.arguments.text}", error, _EXAMPLE) from error
    return model, [f"1x{options.get('in_channels', 3)}x224x224"]

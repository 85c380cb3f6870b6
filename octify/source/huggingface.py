"""Image models of transformers (``hf:``): by configuration, from a folder or from the hub's cache.

Nothing is downloaded, and no code that lies beside a checkpoint is run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import keywords_only
from octify.source.offline import failed, import_extra, offline
from octify.source.target import ModelSpec

_PIXELS = "pixel_values"
_EXAMPLE = "hf:resnet(num_labels=10)"
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
# Classes for a configuration that names none, in this order.
_TASKS = (
    "AutoModelForImageClassification",
    "AutoModelForSemanticSegmentation",
    "AutoModelForObjectDetection",
    "AutoModelForDepthEstimation",
    "AutoModelForImageToImage",
    "AutoModel",
)


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Build the model; return it and the shape of its pixels.

    What follows ``hf:`` is a folder with a config.json (its weights are loaded if it has any), a type of
    configuration (``resnet``), a model's class (``ResNetForImageClassification``) or a name on the hub that
    is in the local cache.

    Raises
    ------
    SourceError
        No such model here, weights that leave a part of the model unset, or a model that reads no pixels.
    """
    name = str(target.name)
    options = keywords_only(target.arguments, _EXAMPLE)
    transformers = import_extra("transformers", "hf")
    place = target.path
    if place is not None and not place.is_dir():
        raise SourceError(f"{place} is a file", hint="the folder that save_pretrained wrote")
    transformers.utils.logging.disable_progress_bar()
    with offline("transformers"):
        if place is not None:
            model = _from_checkpoint(transformers, str(place), options, _has_weights(place))
        elif name in transformers.CONFIG_MAPPING or _class(transformers, name) is not None:
            model = _from_configuration(transformers, name, options)
        else:
            model = _from_cache(transformers, name, options)
    if getattr(model, "main_input_name", _PIXELS) != _PIXELS:
        raise SourceError(
            f"hf:{name} reads {model.main_input_name}, not images",
            why="octify converts convolutions over images",
        )
    return model, [_shape(model.config)]


def _from_configuration(transformers: Any, name: str, options: Mapping[str, Any]) -> Any:
    """The model of a type of configuration, or of a class, with ``options`` in its configuration."""
    kind = _class(transformers, name)
    make = transformers.CONFIG_MAPPING[name] if kind is None else kind.config_class
    try:
        default = make()
        unknown = [option for option in options if not hasattr(default, option)]
        if not unknown:
            config = make(**options)
            return kind(config) if kind is not None else _of_config(transformers, config)
    except Exception as error:
        raise failed(f"hf:{name}", error) from error
    close = difflib.get_close_matches(unknown[0], list(default.to_dict()), n=3)
    raise SourceError(
        f"the configuration of {name} has no {unknown[0]}",
        why=f"it has {', '.join(close)}" if close else None,
        hint=f"{type(default).__name__} in the documentation of transformers lists what it has",
    )


def _from_checkpoint(transformers: Any, place: str, options: Mapping[str, Any], weights: bool) -> Any:
    """The model of a folder, or of a name in the cache: ``weights`` says whether it has any."""
    try:
        config, unused = transformers.AutoConfig.from_pretrained(
            place, return_unused_kwargs=True, local_files_only=True, trust_remote_code=False, **options
        )
    except OSError:
        raise
    except Exception as error:
        raise failed(f"hf:{place}", error) from error
    if unused:
        raise SourceError(f"the configuration in {place} has no {', '.join(unused)}")
    if not weights:
        return _of_config(transformers, config)
    kind = _kind(transformers, config)
    try:
        model, info = kind.from_pretrained(
            place, config=config, local_files_only=True, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:
        raise failed(f"hf:{place}", error, "check that its weights belong to its config.json") from error
    missing = sorted(info.get("missing_keys") or ()) + sorted(map(str, info.get("mismatched_keys") or ()))
    if missing:
        raise SourceError(
            f"the weights in {place} leave {len(missing)} of the parameters of {type(model).__name__} unset",
            why=", ".join(missing[:4]),
            hint='name the class in config.json: "architectures": ["..."]',
        )
    return model.float()


def _from_cache(transformers: Any, name: str, options: Mapping[str, Any]) -> Any:
    """The model that the hub calls ``name``, as far as it was downloaded before."""
    try:
        return _from_checkpoint(transformers, name, options, weights=True)
    except (OSError, SourceError) as error:
        if isinstance(error, SourceError) and not isinstance(error.__cause__, OSError):
            raise
        types = list(transformers.CONFIG_MAPPING)
        close = difflib.get_close_matches(name, types, n=3)
        if Path(name).is_dir():
            raise SourceError(
                f"{name} has no config.json", hint="hf:FOLDER, the folder that save_pretrained wrote"
            ) from error
        hub = "/" in name
        raise SourceError(
            f"hf:{name} is not on this machine" if hub else f"hf:{name} is no folder and no configuration",
            why="a download would be needed, and octify downloads nothing"
            if hub
            else f"configurations are {', '.join(close or ('resnet', 'convnext', 'mobilenet_v2'))}, ...",
            hint=f"hf download {name} (of huggingface_hub), then this again; or hf:FOLDER"
            if hub
            else f"hf:{close[0] if close else 'resnet'}",
        ) from error


def _of_config(transformers: Any, config: Any) -> Any:
    try:
        kind = _kind(transformers, config)
        return kind(config) if hasattr(kind, "config_class") else kind.from_config(config)
    except SourceError:
        raise
    except Exception as error:
        raise failed(f"the model of a {type(config).__name__}", error) from error


def _kind(transformers: Any, config: Any) -> Any:
    """The class of a configuration's model: the one it names, else that of the first task that knows it."""
    for name in getattr(config, "architectures", None) or ():
        kind = _class(transformers, name)
        if kind is not None:
            return kind
    for task in _TASKS:
        auto = getattr(transformers, task, None)
        if auto is not None and type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise SourceError(f"transformers has no image model for a {type(config).__name__}")


def _class(transformers: Any, name: str) -> Any:
    """The class of models called ``name``; None where transformers has none."""
    if not name.isidentifier() or not name[:1].isupper():
        return None
    kind: Any = getattr(transformers, name, None)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return kind if is_model and kind.config_class is not None else None


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def _shape(config: Any) -> str:
    channels = getattr(config, "num_channels", None) or 3
    size = getattr(config, "image_size", None)
    sizes = [size] * 2 if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    height, width = sizes if len(sizes) == 2 else (224, 224)
    return f"1x{channels}x{height}x{width}"

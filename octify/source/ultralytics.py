"""Models of Ultralytics (``ultralytics:yolov8n.yaml``, ``ultralytics:best.pt``).

A .yaml may hold expressions that Ultralytics evaluates, and a .pt is a pickle. Both are read so that no code
of theirs runs: names of layers and activations are checked, and checkpoints are loaded with
``weights_only=True`` and Ultralytics' own list of classes.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import keywords_only, split_arguments
from octify.source.offline import failed, import_extra, offline
from octify.source.target import ModelSpec
from octify.trace.vendors import TORCHVISION_OPS

_SIZES = {"classify": 224}  # samples of the side that a task's models are made for
_CLASSES = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "classify": "ClassificationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
}
_ACTIVATION = re.compile(r"(torch\.)?nn\.(\w+)$")
_OPTIONS = ("nc", "ch")
_NUMBERS = (
    'save the numbers: torch.save(model.state_dict(), "w.pt"), then ultralytics:yolov8n.yaml --weights w.pt'
)


def build(target: ModelSpec) -> tuple[nn.Module, list[str]]:
    """Build the network of a .yaml, with random weights, or load that of a .pt; return it and a shape.

    Options of a .yaml are ``nc``, the number of classes, and ``ch``, of input channels.

    Raises
    ------
    SourceError
        There is no such file, or reading it would run code.
    """
    name = str(target.name)
    options = keywords_only(target.arguments, "ultralytics:yolov8n.yaml(nc=3)")
    suffix = Path(name).suffix.lower()
    if suffix not in (".yaml", ".yml", ".pt"):
        raise SourceError(
            f"ultralytics:{name} is neither a .yaml nor a .pt", hint=f"ultralytics:{name}.yaml, say"
        )
    if suffix == ".pt" and not Path(name).is_file():
        raise SourceError(
            f"no such file: {name}",
            why="a download would be needed, and octify downloads nothing",
            hint=f"download it, or ultralytics:{Path(name).stem}.yaml for the network without its weights",
        )
    with offline("ultralytics"):
        tasks = import_extra("ultralytics.nn.tasks", "ultralytics")
        if suffix == ".pt":
            if options:
                raise SourceError(f"a .pt takes no arguments: {target.arguments.text[:80]}")
            return _checkpoint(tasks, Path(name))
        return _network(tasks, name, options)


def _network(tasks: Any, name: str, options: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    wrong = [key for key, value in options.items() if key not in _OPTIONS or not isinstance(value, int)]
    if wrong:
        raise SourceError(
            f"a .yaml of Ultralytics takes no {wrong[0]}={options[wrong[0]]!r}",
            hint="nc=3, the number of classes, and ch=3, of channels",
        )
    try:
        config = tasks.yaml_model_load(name)
    except Exception as error:
        raise SourceError(
            f"{name} is neither a file nor a configuration of Ultralytics",
            why=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
            hint="ultralytics:yolov8n.yaml, or the path of a .yaml",
        ) from error
    _check_config(tasks, name, config)
    task = tasks.guess_model_task(config)
    transformer = any(str(row[2]).startswith("RTDETR") for row in config["head"])
    kind = getattr(tasks, "RTDETRDetectionModel" if transformer else _CLASSES.get(str(task), ""), None)
    if kind is None:
        raise SourceError(f"{name} is for the task {task!r}, which octify does not build")
    try:
        model: nn.Module = kind(config, ch=options.get("ch", 3), nc=options.get("nc"), verbose=False)
    except Exception as error:
        raise failed(f"ultralytics:{name}", error) from error
    return model, [_shape(options.get("ch", 3), _SIZES.get(str(task), 640))]


def _check_config(tasks: Any, name: str, config: Any) -> None:
    """Raise SourceError where Ultralytics would evaluate, or call what is no layer."""
    try:
        rows = [*config["backbone"], *config["head"]]
        layers = [str(row[2]) for row in rows]
    except (TypeError, KeyError, IndexError) as error:
        raise SourceError(
            f"{name} is not a model of Ultralytics", why="it has no backbone and head with four columns"
        ) from error
    activation = config.get("activation")
    if activation is not None and not _is_activation(str(activation)):
        raise SourceError(
            f"the activation in {name} is {str(activation)[:80]!r}, which would be run",
            why="Ultralytics evaluates it",
            hint="nn.SiLU(), say: a layer of torch.nn with literals",
        )
    for layer in layers:
        if not _is_layer(tasks, layer):
            raise SourceError(
                f"{name} names {layer[:80]!r}, which is not a layer", hint="Conv, C2f or nn.ReLU, say"
            )


def _is_activation(text: str) -> bool:
    try:
        name, arguments = split_arguments(text.strip())
    except SourceError:
        return False
    match = _ACTIVATION.match(name)
    return bool(arguments and match and _is_module(getattr(nn, match[2], None)))


def _is_layer(tasks: Any, name: str) -> bool:
    if name.startswith("nn."):
        return _is_module(getattr(nn, name[3:], None))
    if name.startswith(TORCHVISION_OPS):
        return _is_module(
            getattr(import_extra("torchvision", "zoo").ops, name.removeprefix(TORCHVISION_OPS), None)
        )
    return _is_module(getattr(tasks, name, None))


def _is_module(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _checkpoint(tasks: Any, path: Path) -> tuple[nn.Module, list[str]]:
    load = tasks.torch_safe_load
    if "safe_only" not in inspect.signature(load).parameters:
        raise SourceError(
            f"{path} is a pickle, and this version of Ultralytics has no list of the classes in it",
            why="unpickling a file runs whatever code it contains",
            hint=f"pip install -U ultralytics, or {_NUMBERS}",
        )
    try:
        with _weights_only():
            checkpoint, _ = load(str(path), safe_only=True)
    except Exception as error:
        cause: BaseException = error.__cause__ or error
        raise SourceError(
            f"{path} holds pickled Python objects, which octify refuses to load",
            why=(str(cause).strip().splitlines() or [type(cause).__name__])[0][:400],
            hint=_NUMBERS,
        ) from error
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        raise SourceError(
            f"{path} has no model, only numbers", hint=f"ultralytics:NAME.yaml --weights {path}"
        )
    trained = checkpoint.get("train_args") or {}
    side = trained.get("imgsz")
    size = side if isinstance(side, int) else 640
    config = getattr(model, "yaml", None) or {}
    channels = config.get("channels") or config.get("ch") or 3
    for layer in model.modules():  # files of older versions of torch
        if isinstance(layer, nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None
    return model.float(), [_shape(channels, size)]


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch refuse pickles in the block, whatever Ultralytics falls back to."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _shape(channels: int, size: int) -> str:
    return f"1x{channels}x{size}x{size}"

"""Max and average pooling, and pooling to one sample per channel."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg

from octify.layout.channels import DENSE, Ids, Refusal
from octify.layout.roles import is_vector
from octify.nn.pool import OctaveAvgPool, OctaveMaxPool
from octify.nn.reduction import Reduction, low_reduced
from octify.nn.resample import AsWritten, low_adaptive
from octify.ops.base import Op, operand
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace.vendors import BLURS, POOLS

_MAX_KEYS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_KEYS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _settings(node: fx.Node, module: nn.Module | None, keys: tuple[str, ...]) -> dict[str, Any]:
    """The pooling's settings, from the module or from the call's arguments."""
    if module is not None:
        return {key: getattr(module, key) for key in keys if hasattr(module, key)}
    arguments = dict(zip(keys, node.args[1:], strict=False)) | {
        k: v for k, v in node.kwargs.items() if k in keys
    }
    return {key: value for key, value in arguments.items() if value is not None}


def _dims(module: nn.Module | None, node: fx.Node) -> int:
    """Number of axes that the pooling pools, the last ones, however many its input has."""
    if module is None:
        return _DIMS[node.target]
    return next((dims for dims, kinds in _KINDS.items() if isinstance(module, kinds)), 2)


def _passes(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    module = walk.traced.submodule(node)
    ids = walk.ids(operand(node))
    if ids is None or not bool((ids != DENSE).any()):
        return walk.dense(node)
    if _dims(module, node) != len(walk.shape(operand(node))) - 2:
        return Refusal(_OTHER_AXES)
    indices = getattr(module, "return_indices", False) or node.kwargs.get("return_indices", False)
    if indices:
        return Refusal("it returns the indices of its maxima")
    if len(node.all_input_nodes) > 1 and not is_vector(walk.shape(node)):
        return Refusal("its window is computed")
    return ids


def _emit_max(emitter: Emitter, node: fx.Node) -> Value:
    if len(node.all_input_nodes) > 1:
        return _reduced(emitter, node, "amax")
    settings = _settings(node, emitter.traced.submodule(node), _MAX_KEYS)
    settings.pop("return_indices", None)
    layer = OctaveMaxPool(len(emitter.shape(node)) - 2, scheme=emitter.plan.kernels, **settings)
    return _emit_module(emitter, node, layer)


def _emit_avg(emitter: Emitter, node: fx.Node) -> Value:
    if len(node.all_input_nodes) > 1:  # the window is the map, as its computed size says
        return _reduced(emitter, node, "mean")
    settings = _settings(node, emitter.traced.submodule(node), _AVG_KEYS)
    layer = OctaveAvgPool(len(emitter.shape(node)) - 2, scheme=emitter.plan.kernels, **settings)
    return _emit_module(emitter, node, layer)


def _emit_module(emitter: Emitter, node: fx.Node, layer: nn.Module) -> Value:
    """The pooling module in the original's place, or at a name of its own for a function."""
    x = emitter.value(operand(node))
    path = str(node.target) if node.op == "call_module" else f"octave_{node.name}"
    return emitter.pair(emitter.call(path, layer, x.high, x.low), x.mask)


def _reduced(emitter: Emitter, node: fx.Node, kind: Reduction) -> Value:
    """Pooling to one sample per channel, the high branch by the original node."""
    source = operand(node)
    dims = list(range(2, len(emitter.shape(source))))
    x = emitter.value(source)
    return Value(_high(emitter, node), emitter.function(low_reduced, x.low, x.high, kind, dims), x.mask)


def _high(emitter: Emitter, node: fx.Node) -> fx.Node | None:
    source = operand(node)
    high = emitter.value(source).high
    return None if high is None else emitter.copy(node, lambda n: high if n is source else emitter.dense(n))


def _layout_adaptive(walk: Walk, node: fx.Node) -> Ids | Refusal | None:
    module, source = walk.traced.submodule(node), operand(node)
    ids = walk.ids(source)
    if ids is None or not bool((ids != DENSE).any()) or len(walk.shape(source)) != len(walk.shape(node)):
        return walk.dense(node)
    if _dims(module, node) != len(walk.shape(source)) - 2:
        return Refusal(_OTHER_AXES)
    if getattr(module, "return_indices", False) or node.kwargs.get("return_indices", False):
        return Refusal("it returns the indices of its maxima")
    return ids


def _emit_adaptive(emitter: Emitter, node: fx.Node, kind: Reduction) -> Value:
    module = emitter.traced.submodule(node)
    output_size: Any = operand(node, 1, "output_size") if module is None else module.output_size
    # As it is written: with None a map that has one sample in the example may have more.
    if all(n == 1 for n in (output_size if isinstance(output_size, (tuple, list)) else (output_size,))):
        return _reduced(emitter, node, kind)
    x = emitter.value(operand(node))
    size = map_arg(output_size, emitter.dense)
    return Value(_high(emitter, node), emitter.function(low_adaptive, x.low, x.high, kind, size), x.mask)


def _emit_as_written(emitter: Emitter, node: fx.Node) -> Value:
    return _emit_module(emitter, node, AsWritten(emitter.module(node), emitter.plan.kernels))


def _emit_blur(emitter: Emitter, node: fx.Node) -> Value:
    """timm's ``BlurPool2d``: one fixed filter, kept once for every channel; once is enough for any number."""
    blur: Any = copy.deepcopy(emitter.module(node))
    blur.channels = None
    blur.register_buffer("filt", blur.filt[:1].clone(), persistent=False)
    return _emit_module(emitter, node, AsWritten(blur, emitter.plan.kernels))


_OTHER_AXES = "it pools other axes than those of the map"
_DIMS: dict[Any, int] = {
    function: dims
    for dims, functions in {
        1: (F.max_pool1d, torch.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d),
        2: (F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
        3: (F.max_pool3d, torch.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
    }.items()
    for function in functions
}
_KINDS: dict[int, tuple[type[nn.Module], ...]] = {  # all others pool two axes
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    3: (nn.MaxPool3d, nn.AvgPool3d, nn.LPPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
}
_MAX_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVG_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_AVG = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)

OPS = (
    Op(
        "max pooling",
        _passes,
        _emit_max,
        modules=_MAX_MODULES,
        functions=(
            F.max_pool1d,
            F.max_pool2d,
            F.max_pool3d,
            torch.max_pool1d,
            torch.max_pool2d,
            torch.max_pool3d,
        ),
    ),
    Op(
        "average pooling",
        _passes,
        _emit_avg,
        modules=_AVG_MODULES,
        functions=(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    ),
    Op(
        "adaptive average pooling",
        _layout_adaptive,
        lambda emitter, node: _emit_adaptive(emitter, node, "mean"),
        modules=_ADAPTIVE_AVG,
        functions=(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    ),
    Op(
        "adaptive max pooling",
        _layout_adaptive,
        lambda emitter, node: _emit_adaptive(emitter, node, "amax"),
        modules=_ADAPTIVE_MAX,
        functions=(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    ),
    Op("blurred pooling", _passes, _emit_blur, modules=BLURS),
    Op(
        "other pooling",
        _passes,
        _emit_as_written,
        modules=(
            nn.LPPool1d,
            nn.LPPool2d,
            nn.LPPool3d,
            *POOLS,
        ),
    ),
)

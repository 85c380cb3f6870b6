"""Why a value keeps its basis, in words."""

from __future__ import annotations

from torch import fx, nn

from octify.calibrate.rotate.ownership import Ownership
from octify.compat import ConvNd
from octify.export.fold import is_linear_in_weight
from octify.export.norm import has_hooks
from octify.ops import table
from octify.ops.base import operand
from octify.ops.effective_conv import reads_own_weight
from octify.trace import Traced


def called(traced: Traced, node: fx.Node) -> str:
    """An operation, as it is named to the user."""
    module = traced.submodule(node)
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))


_ALONE = ("elementwise", "BatchNorm", "PReLU", "norm over positions", "PReLU of given slopes", "pointwise")


def why_not(traced: Traced, node: fx.Node) -> str:
    """Why mixtures of channels do not pass through ``node``."""
    op = table().find(traced, node)
    name = called(traced, node)
    if op is None:
        return f"{name} is no linear map that octify knows"
    if op.name in _ALONE:
        return f"{name} acts on each channel by itself"
    return f"{name} ({op.name}) does not treat all channels alike"


def why_unmixed(traced: Traced, owners: Ownership, node: fx.Node, layer: nn.Module) -> str | None:
    """Why a layer does not mix all its channels by a weight of its own; None if it does."""
    path = str(node.target)
    if isinstance(layer, ConvNd) and layer.groups > 1:
        alone = layer.groups == layer.in_channels
        return f"{path} is {'depthwise: it computes each channel from itself' if alone else 'grouped'}"
    if not (is_linear_in_weight(layer) or _padded(traced, node, layer)):
        return f"{path} computes its weight, or has hooks"
    if not layer.get_parameter("weight").is_floating_point():
        return f"{path} does not compute with real numbers"
    if not owners.alone(layer):
        return f"{path} shares its weights, or is used by code that was not traced"
    shape = traced.shape(node) or ()
    if isinstance(layer, ConvNd) and len(shape) != len(layer.kernel_size) + 2:
        return f"{path} reads a value without a batch dimension"
    return None if node.args and len(shape) > 1 else f"{path} is called in a way that octify does not follow"


def _padded(traced: Traced, node: fx.Node, layer: nn.Module) -> bool:
    """Return whether a convolution with its own ``forward`` only pads its input."""
    source = operand(node)
    shape = traced.shape(source) if isinstance(source, fx.Node) else None
    plain = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and not has_hooks(layer)
    return plain and shape is not None and len(shape) > 2 and reads_own_weight(layer, shape)

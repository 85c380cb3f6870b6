"""Convolutions that a model calls as functions, as the layers that they amount to.

``F.conv2d(x, self.weight)`` has no module that a plan could name. Where its weight is the same in every run,
a layer takes its place in the graph: under the path of the module whose code calls it, with the very same
parameters. A weight that the code computes from parameters stays computed, by a parametrization
(``torch.nn.utils.parametrize``). The graph gives it the operands of the function, and a rewrite
that leaves it alone writes down the function: parameters keep their names.

Depthwise functions stay: they decide about no channels, and have a rule of their own.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from octify.compat import module_stack
from octify.trace.constants import constant


class CalledAsFunction(nn.Module):
    """A layer in the place of a function: with operands it computes the function of these.

    layer:
        The class of the layer that it amounts to.
    settings:
        Keyword arguments of ``function`` beside its operands.
    """

    layer: ClassVar[type[nn.Module]]
    weight: Tensor
    bias: Tensor | None
    function: Any
    settings: Mapping[str, Any]

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Compute the function of ``x``, with the layer's own weight and bias unless these are given."""
        if weight is None:
            weight, bias = self.weight, self.bias
        y: Tensor = self.function(x, weight, bias, **self.settings)
        return y


class _FunctionConv1d(CalledAsFunction, nn.Conv1d):
    layer = nn.Conv1d


class _FunctionConv2d(CalledAsFunction, nn.Conv2d):
    layer = nn.Conv2d


class _FunctionConv3d(CalledAsFunction, nn.Conv3d):
    layer = nn.Conv3d


class _FunctionConvTranspose1d(CalledAsFunction, nn.ConvTranspose1d):  # type: ignore[misc]
    layer = nn.ConvTranspose1d


class _FunctionConvTranspose2d(CalledAsFunction, nn.ConvTranspose2d):  # type: ignore[misc]
    layer = nn.ConvTranspose2d


class _FunctionConvTranspose3d(CalledAsFunction, nn.ConvTranspose3d):  # type: ignore[misc]
    layer = nn.ConvTranspose3d


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_OPERANDS = ("weight", "bias")
_KINDS: dict[Any, tuple[type[nn.Module], int]] = {
    F.conv1d: (_FunctionConv1d, 1),
    F.conv2d: (_FunctionConv2d, 2),
    F.conv3d: (_FunctionConv3d, 3),
    F.conv_transpose1d: (_FunctionConvTranspose1d, 1),
    F.conv_transpose2d: (_FunctionConvTranspose2d, 2),
    F.conv_transpose3d: (_FunctionConvTranspose3d, 3),
}
_TRANSPOSED_KINDS = (_FunctionConvTranspose1d, _FunctionConvTranspose2d, _FunctionConvTranspose3d)


class ComputedWeight(nn.Module):
    """A weight as a model's code computes it, of the parameter that it begins with."""

    def __init__(self, steps: fx.GraphModule) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, original: Tensor) -> Tensor:
        """Compute the weight from ``original``."""
        weight: Tensor = self.steps.forward(original)
        # Without gradients a view of a parameter asks for one still, which module trackers stumble over.
        return weight if torch.is_grad_enabled() else weight.detach()


def name_functions(root: nn.Module, graph: fx.Graph) -> None:
    """Put a layer under ``root`` for every convolution of ``graph`` that is a function of one value.

    Calls that are alike in weight, bias and settings call one layer, as they share what is trained.
    """
    layers: dict[Any, str] = {}
    for node in list(graph.nodes):
        kind = _KINDS.get(node.target) if node.op == "call_function" else None
        call = None if kind is None else _call(root, node)
        if kind is None or call is None:
            continue
        key = (node.target, *(_key(root, call[name]) for name in sorted(call) if name != "input"))
        if key not in layers:
            layer = _layer(root, node.target, call)
            if layer is None:
                continue
            layers[key] = _place(root, node, kind[1], layer)
        node.op, node.target = "call_module", layers[key]
        node.args, node.kwargs = (call["input"],), {name: call.get(name) for name in _OPERANDS}


def _call(root: nn.Module, node: fx.Node) -> dict[str, Any] | None:
    """The arguments by name; None where a weight or a setting is not the same in every run."""
    names = _TRANSPOSED if _KINDS[node.target][0] in _TRANSPOSED_KINDS else _CONV
    call = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    cache: dict[fx.Node, Any] = {}
    try:
        weight, bias = (constant(root, call.get(name), cache) for name in _OPERANDS)
    except Exception:  # it depends on the input, or cannot be computed apart from it
        return None
    settings = [value for name, value in call.items() if name not in ("input", *_OPERANDS)]
    if any(isinstance(each, fx.Node) for each in _flat(settings)):
        return None
    tensors = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    return call if tensors and isinstance(call.get("input"), fx.Node) else None


def _flat(values: Sequence[Any]) -> list[Any]:
    return [leaf for v in values for leaf in (v if isinstance(v, (tuple, list)) else (v,))]


def _key(root: nn.Module, value: Any) -> Any:
    """A value of equality: two values with the same are computed alike from the same tensors."""
    if not isinstance(value, fx.Node):
        return repr(value)
    if value.op == "get_attr":
        return id(operator.attrgetter(str(value.target))(root))
    parts = (*value.args, *(item for pair in sorted(value.kwargs.items()) for item in pair))
    return (value.target, *(_key(root, each) for each in _flat(parts)))


def _layer(root: nn.Module, function: Any, call: Mapping[str, Any]) -> nn.Module | None:
    """The layer in eval mode; None where the function is depthwise, or takes what no layer does."""
    kind = _KINDS[function]
    cache: dict[fx.Node, Any] = {}
    weight: Tensor = constant(root, call["weight"], cache)
    bias: Tensor | None = constant(root, call.get("bias"), cache)
    groups = int(call.get("groups", 1))
    transposed = kind[0] in _TRANSPOSED_KINDS
    if weight.ndim != kind[1] + 2 or weight.shape[0 if transposed else 1] == (groups if transposed else 1):
        return None
    wide, narrow = weight.shape[1] * groups, weight.shape[0]
    channels = (narrow, wide) if transposed else (wide, narrow)
    settings = {name: v for name, v in call.items() if name not in ("input", *_OPERANDS)}
    make: Any = kind[0]
    layer: Any = make(
        *channels,
        tuple(weight.shape[2:]),
        bias=bias is not None,
        device="meta",
        dtype=weight.dtype,
        **{name: list(v) if isinstance(v, (tuple, list)) else v for name, v in settings.items()},
    )
    for name in ("weight", "bias") if bias is not None else ("weight",):
        _give(root, layer, name, call[name])
    layer.function, layer.settings = function, settings
    result: nn.Module = layer.eval()
    return result


def _give(root: nn.Module, layer: nn.Module, name: str, node: fx.Node) -> None:
    """Give ``layer`` the tensor of ``node``: the parameter itself, or how it is computed."""
    steps, first = _steps(root, node)
    if first is None or node.op == "get_attr":
        value: Tensor = constant(root, node, {}) if first is None else first
        own = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach(), requires_grad=False)
        setattr(layer, name, own)
        return
    setattr(layer, name, first)
    parametrize.register_parametrization(layer, name, ComputedWeight(steps), unsafe=True)


def _steps(root: nn.Module, node: fx.Node) -> tuple[fx.GraphModule, nn.Parameter | None]:
    """The graph from a parameter to the value of ``node``, and that parameter; None if there is none."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    first: nn.Parameter | None = None
    held = nn.Module()
    names: dict[int, str] = {}
    for each in _before(node):
        if each.op != "get_attr":
            copied[each] = graph.node_copy(each, lambda n: copied[n])
            continue
        value = operator.attrgetter(str(each.target))(root)
        if first is None and isinstance(value, nn.Parameter):
            first = value
        if value is first:
            copied[each] = next(iter(graph.find_nodes(op="placeholder")), None) or _placeholder(graph)
            continue
        name = names.setdefault(id(value), f"held_{len(names)}")
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            held.register_buffer(name, value)
        else:
            setattr(held, name, value)
        copied[each] = graph.get_attr(name)
    if first is None:
        _placeholder(graph)
    graph.output(copied[node])
    return fx.GraphModule(held, graph, class_name="Steps"), first


def _placeholder(graph: fx.Graph) -> fx.Node:
    """A placeholder in front of all nodes."""
    first = next(iter(graph.nodes), None)
    if first is None:
        return graph.placeholder("original")
    with graph.inserting_before(first):
        return graph.placeholder("original")


def _before(node: fx.Node) -> list[fx.Node]:
    """``node`` behind all that it is computed from, in the order of the graph."""
    sources: set[fx.Node] = set()
    ahead = [node]
    while ahead:
        each = ahead.pop()
        if each not in sources:
            sources.add(each)
            ahead.extend(each.all_input_nodes)
    return [each for each in node.graph.nodes if each in sources]


def _place(root: nn.Module, node: fx.Node, dims: int, layer: nn.Module) -> str:
    """Put ``layer`` beside the layers of the module whose code calls ``node``; returns its path."""
    around = next(reversed(module_stack(node)), "")
    owner = root.get_submodule(around)
    transposed = "_transpose" if isinstance(layer, _TRANSPOSED_KINDS) else ""
    stem = f"conv{transposed}{dims}d"
    names = (stem if k == 0 else f"{stem}_{k}" for k in itertools.count())
    name = next(name for name in names if not hasattr(owner, name))
    owner.add_module(name, layer)
    return f"{around}.{name}" if around else name

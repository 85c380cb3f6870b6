"""Folding BatchNorm into the weights before it.

In eval mode BatchNorm is ``y = scale * x + shift`` per channel, with
``scale = weight / sqrt(running_var + eps)`` and ``shift = bias - scale * running_mean``.
Whatever is linear in its weights and writes ``x`` can absorb it:

    bn(W x + b) = (scale W) x + (scale b + shift)

An octave branch is the sum of two paths (``octify.nn.conv``), each one convolution or several
side by side. All are scaled; every channel's shift goes into one that writes it, the one with
the bias if there is one. Upsampling a constant changes nothing, so it does not matter which.

A BatchNorm with nothing to fold into (before the convolution, after a concatenation) becomes a
scale and shift of its own (``octify.export.norm``).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import operator
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from octify.compat import CONV_FORWARD, FakeTensorMode
from octify.errors import TraceError
from octify.export.norm import Norm, has_hooks, norm_of
from octify.nn import OctaveChannelwise, OctaveConv
from octify.nn.groups import UnevenGroups
from octify.trace.aliases import is_identity
from octify.trace.arguments import Arguments, NotPlainError
from octify.trace.tracer import symbolic_trace
from octify.trace.unlogged import unlogged
from octify.trace.vendors import SAME_CONVOLUTIONS, is_one_of

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FOLDABLE: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class Writer:
    """A layer that writes some of a value's channels, from ``first`` on, alone or as a term of a sum."""

    module: nn.Module
    first: int = 0

    @property
    def channels(self) -> range:
        """The channels it writes."""
        module = self.module
        count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        assert isinstance(count, int)
        return range(self.first, self.first + count)


def fold_batchnorm(model: nn.Module, example_inputs: Sequence[Any] | None = None) -> nn.Module:
    """Return a new module in eval mode that computes ``model``'s eval output without BatchNorm.

    Every BatchNorm that alone uses the output of one convolution, transposed convolution, linear
    layer or octave convolution is folded into its weights; any other becomes a per-channel scale and
    shift. Left as they are: norms without running statistics, with hooks, or of an unknown
    class. A convolution that is called twice, whose output is also used elsewhere, or whose
    weight is computed (weight norm, weight standardisation), is not folded into.

    Parameters
    ----------
    model:
        A GraphModule, or a module that ``torch.fx`` can trace. One that cannot be traced comes back
        as a plain copy in eval mode. ``model`` itself is not changed.
    example_inputs:
        Positional inputs. With them, optional arguments of ``forward`` beyond them are fixed at their
        defaults, and a BatchNorm1d after a Linear can be folded (without them it is not known to
        normalise the linear layer's output dimension).

    Returns
    -------
    A ``torch.fx.GraphModule`` (or the plain copy). Factors are computed in float64 and rounded once.
    """
    copied = copy.deepcopy(model).eval()
    folded = _graph_of(copied, example_inputs)
    if folded is None:
        return copied
    with torch.no_grad():
        _part_octave_norms(folded)
        sites = _Sites(folded, example_inputs)
        for target, nodes in _norm_calls(folded).items():
            norm = norm_of(folded.get_submodule(target))
            if norm is not None:
                _replace(folded, target, nodes, norm, sites)
    folded.graph.eliminate_dead_code()
    folded.graph.lint()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _graph_of(model: nn.Module, example_inputs: Sequence[Any] | None) -> fx.GraphModule | None:
    """``model`` as a GraphModule over the same submodules; None if it cannot be traced."""
    if isinstance(model, fx.GraphModule):
        return model
    inputs = example_inputs
    if inputs is None:
        parameters = inspect.signature(model.forward).parameters.values()
        # One tensor of unknown size for every required parameter.
        inputs = [torch.empty(0) for p in parameters if p.default is p.empty]
    try:
        arguments = Arguments.of(model, inputs, {})
        return symbolic_trace(model, arguments, sizes="anywhere" if example_inputs else "nowhere").module
    except (TraceError, TypeError, NotPlainError):
        return None


def _part_octave_norms(module: fx.GraphModule) -> None:
    """Turn a norm over an octave value into one call per branch, which is how it is defined."""
    for node in list(module.graph.nodes):
        owner = _called(module, node)
        if not isinstance(owner, OctaveChannelwise) or not all(_is_getitem(user) for user in node.users):
            continue
        if not any(norm_of(part) for part in (owner.high, owner.low) if part is not None):
            continue
        values = {"high": None, "low": None, **node.kwargs}
        values.update(zip(("high", "low"), node.args, strict=False))
        for user in list(node.users):
            name = ("high", "low")[user.args[1]]
            if getattr(owner, name) is None or values[name] is None:
                _replace_by_none(user)
            else:
                with module.graph.inserting_before(user):
                    branch = module.graph.call_module(f"{node.target}.{name}", (values[name],))
                user.replace_all_uses_with(branch)
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def _replace_by_none(node: fx.Node) -> None:
    """Replace a branch without channels by None, the value its readers had before."""

    def changed(value: fx.Node) -> Any:
        return None if value is node else value

    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg(user.args, changed), fx.map_arg(user.kwargs, changed)


class _Sites:
    """Search for the layers that a BatchNorm can be folded into."""

    def __init__(self, module: fx.GraphModule, example_inputs: Sequence[Any] | None) -> None:
        self._module = module
        self._example_inputs = example_inputs
        self._ranks: dict[fx.Node, int] | None = None
        # An opaque module may hold, and call, a convolution that is also called directly.
        self._calls = Counter(
            id(part)
            for node in module.graph.nodes
            if (called := _called(module, node)) is not None
            for part in called.modules()
        )
        self._read_directly = {
            id(operator.attrgetter(str(node.target))(module))
            for node in module.graph.nodes
            if node.op == "get_attr"
        }

    def before(self, norm_node: fx.Node, channels: int) -> tuple[Writer, ...] | None:
        """Layers whose outputs sum to what ``norm_node`` alone reads; None if it cannot be folded."""
        value = _input(norm_node)
        while isinstance(value, fx.Node) and len(value.users) == 1 and self._is_identity(value):
            value = _input(value)
        if not isinstance(value, fx.Node) or len(value.users) != 1:
            return None
        writers = self._branch_writers(value) if _is_getitem(value) else self._writers(value)
        if not writers or not all(self._can_take(writer) for writer in writers):
            return None
        if {c for writer in writers for c in writer.channels} != set(range(channels)):
            return None
        if isinstance(writers[0].module, nn.Linear) and self._rank(value) != 2:
            return None
        return writers

    def _is_identity(self, node: fx.Node) -> bool:
        called = _called(self._module, node)
        return called is not None and is_identity(called) and not called.training

    def _writers(self, value: fx.Node) -> tuple[Writer, ...]:
        called = _called(self._module, value)
        return (Writer(called),) if isinstance(called, _FOLDABLE) else ()

    def _branch_writers(self, value: fx.Node) -> tuple[Writer, ...]:
        """The convolutions of an octave convolution into one branch, those at the same resolution first."""
        source, branch = value.args
        assert isinstance(source, fx.Node)
        owner = _called(self._module, source)
        if not isinstance(owner, OctaveConv) or has_hooks(owner):
            return ()
        readers = [user for user in source.users if not _is_getitem(user) or user.args[1] == branch]
        if readers != [value]:
            return ()
        paths = (
            (owner.high_to_high, owner.low_to_high) if branch == 0 else (owner.low_to_low, owner.high_to_low)
        )
        return tuple(writer for path in paths if path is not None for writer in _parts(path))

    def _can_take(self, writer: Writer) -> bool:
        module = writer.module
        if self._calls[id(module)] != 1 or not is_linear_in_weight(module):
            return False
        return not any(id(p) in self._read_directly for p in module.parameters(recurse=False))

    def _rank(self, node: fx.Node) -> int | None:
        """Number of dimensions of a value; None without example inputs."""
        if self._ranks is None:
            self._ranks = {} if self._example_inputs is None else _ranks(self._module, self._example_inputs)
        return self._ranks.get(node)


def is_linear_in_weight(module: nn.Module) -> bool:
    """Return whether scaling ``module.weight`` and ``module.bias`` scales its output.

    Not so for subclasses that normalise the weight, for parametrizations and for anything with hooks.
    """
    if has_hooks(module) or parametrize.is_parametrized(module) or "weight" not in _parameters(module):
        return False
    if is_one_of(type(module), SAME_CONVOLUTIONS):  # overrides forward, but scales as a convolution does
        return True
    base = next((base for base in _FOLDABLE if isinstance(module, base)), None)
    overridden = [
        name for name in CONV_FORWARD if getattr(type(module), name, None) is not getattr(base, name, None)
    ]
    return base is not None and not overridden


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False))


def _parts(path: nn.Module) -> list[Writer]:
    """The convolutions of one path of an octave convolution."""
    if isinstance(path, UnevenGroups) and not has_hooks(path):
        return [Writer(conv, first) for conv, first in path.parts()]
    return [Writer(path)]


def scale_outputs(writers: Sequence[Writer], scale: Tensor, shift: Tensor) -> None:
    """Scale and shift the sum of ``writers``' outputs per channel, in place; scale and shift: (C,) float64.

    New parameters replace the old ones, so that a tensor tied to another module keeps its values there.
    """
    open_channels = torch.ones_like(scale)  # 1 where no bias has taken up the shift yet
    for writer in sorted(writers, key=lambda w: w.module.bias is None):
        module, own = writer.module, slice(writer.channels.start, writer.channels.stop)
        weight, bias = module.get_parameter("weight"), _parameters(module).get("bias")
        if isinstance(module, _TRANSPOSED):  # (in, out / groups, *taps), the groups along "in"
            per_group = scale[own].view(module.groups, 1, -1, *(1,) * (weight.ndim - 2))
            grouped = weight.double().view(module.groups, -1, *weight.shape[1:])
            scaled = (grouped * per_group).view(weight.shape)
        else:
            scaled = weight.double() * scale[own].view(-1, *(1,) * (weight.ndim - 1))
        module.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=weight.requires_grad)
        if bias is None and not bool(open_channels[own].any()):
            continue
        moved = shift[own] * open_channels[own]
        open_channels[own] = 0
        if bias is not None:
            moved = moved + bias.double() * scale[own]
        module.bias = nn.Parameter(moved.to(weight.dtype), requires_grad=weight.requires_grad)


def _norm_calls(module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)].append(node)
    return calls


def _replace(
    module: fx.GraphModule, target: str, nodes: Sequence[fx.Node], norm: Norm, sites: _Sites
) -> None:
    """Fold ``target`` at every place it is called; where it cannot be folded everywhere, nowhere."""
    writers_by_call = [sites.before(node, norm.scale.numel()) for node in nodes]
    if all(writers_by_call):
        for writers in writers_by_call:
            assert writers is not None
            scale_outputs(writers, norm.scale, norm.shift)
        rest = list(norm.tail)
    else:
        rest = [norm.as_module(), *norm.tail]
    if rest:
        module.set_submodule(target, rest[0] if len(rest) == 1 else nn.Sequential(*rest).eval())
        return
    for node in nodes:
        node.replace_all_uses_with(_input(node))
        module.graph.erase_node(node)


def _ranks(module: fx.GraphModule, example_inputs: Sequence[Any]) -> dict[fx.Node, int]:
    with contextlib.suppress(Exception):  # a model with data-dependent shapes: some ranks stay unknown
        from torch.fx.passes.fake_tensor_prop import FakeTensorProp

        with unlogged():
            FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*example_inputs)
    values = {node: node.meta.pop("val", None) for node in module.graph.nodes}
    return {node: value.ndim for node, value in values.items() if isinstance(value, Tensor)}


def _called(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else next(iter(node.kwargs.values()))


def _is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem and node.args[1] in (0, 1)

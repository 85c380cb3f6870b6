"""The rewritten graph under construction, as op files see it.

An octave value becomes two nodes, high and low. The emitter keeps the values and inserts
split and merge layers where an operand is not in the layout its consumer needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from octify.layout.channels import Mask, Resolved, indices
from octify.layout.roles import is_reduced, map_shape, sizes, standard_roles
from octify.nn.boundary import MergeOctave, SplitOctave
from octify.nn.views import from_map, to_map
from octify.plan import Plan
from octify.trace import Traced
from octify.trace.cost import PLACE
from octify.trace.function_layers import CalledAsFunction
from octify.trace.keywords import with_any_names
from octify.trace.model import attribute


@dataclass(frozen=True)
class Value:
    """A value of the rewritten graph.

    Dense: ``high`` is its node and ``mask`` is None. Octave: ``mask`` says which of the
    original channels are low; a branch without channels is None. The branches are maps
    (N, channels, *size) wherever the original has its channels.
    """

    high: fx.Node | None
    low: fx.Node | None = None
    mask: Mask | None = None

    @property
    def octave(self) -> bool:
        """Return whether some channels are low."""
        return self.mask is not None

    def each(self, apply: Callable[[fx.Node], fx.Node]) -> Value:
        """``apply`` on every branch that exists."""
        return Value(
            None if self.high is None else apply(self.high),
            None if self.low is None else apply(self.low),
            self.mask,
        )


@dataclass(frozen=True)
class Boundary:
    """A split or merge layer of the rewritten graph.

    ``vector`` ones join or part values reduced over space (one sample per channel, or a strip of
    them) and cost next to nothing; ``reason`` says who needed it.
    """

    kind: str
    path: str
    after: str
    before: str
    reason: str
    shape: tuple[int, ...]
    vector: bool


class Emitter:
    """Builds the new graph; the interface op files are written against."""

    def __init__(self, traced: Traced, plan: Plan, resolved: Resolved) -> None:
        self.traced = traced
        self.plan = plan
        self.resolved = resolved
        self.graph = with_any_names(fx.Graph())
        self.modules: dict[str, Any] = {}
        self.boundaries: list[Boundary] = []
        self.parts: dict[str, list[Value]] = {}
        self._values: dict[fx.Node, Value] = {}
        self._relaid: dict[tuple[fx.Node, str, bytes], Value] = {}
        self._maps: dict[tuple[fx.Node, str], fx.Node] = {}
        self.consumer: fx.Node | None = None

    # What op files read.

    def value(self, node: fx.Node) -> Value:
        """The rewritten value of an original node."""
        return self._values[node]

    def mask(self, node: fx.Node) -> Mask | None:
        """Low channels of the node's value under the plan; None where dense."""
        return self.resolved.mask(node.name)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Original shape of a node's tensor at the example inputs."""
        shape = self.traced.shape(node)
        assert shape is not None, f"{node.name} is not a tensor"
        return shape

    def roles(self, node: fx.Node) -> str:
        """Roles of the dimensions of a node's tensor."""
        return self.resolved.layout.roles(node.name, self.shape(node))

    def module(self, node: fx.Node) -> nn.Module:
        """The original module of a ``call_module`` node."""
        module = self.traced.submodule(node)
        assert module is not None
        return module

    # What op files write.

    def dense(self, node: fx.Node) -> fx.Node:
        """The dense form of a value, merging it if need be."""
        high = self.as_mask(node, None).high
        assert high is not None
        return high

    def as_mask(self, node: fx.Node, mask: Mask | None, roles: str | None = None) -> Value:
        """The value in the layout ``mask``; converted at most once for all who ask.

        A dense value is taken to have the ``roles`` of whoever asks; by default its own.
        """
        value = self._values[node]
        if _same(value.mask, mask):
            return value
        roles = roles or self.roles(node)
        key = (node, roles, b"" if mask is None else mask.tobytes())
        if key not in self._relaid:
            whole = self.as_map(node, roles)
            result = (
                self.spread(node, Value(whole)) if mask is None else self._split(node, whole, mask, roles)
            )
            self._relaid[key] = result
        return self._relaid[key]

    def as_map(self, node: fx.Node, roles: str | None = None) -> fx.Node:
        """A value's dense map (N, C, *size), merging it if need be."""
        value, roles = self._values[node], roles or self.roles(node)
        if (node, roles) not in self._maps:
            if value.mask is not None:
                result = self._merge(node, value)
            else:
                assert value.high is not None
                result = value.high if _standard(roles) else self.function(to_map, value.high, roles)
            self._maps[node, roles] = result
        return self._maps[node, roles]

    def spread(self, node: fx.Node, value: Value) -> Value:
        """A value of maps as the value of ``node``: a dense one gets its dimensions in their places."""
        roles = self.roles(node)
        if value.mask is not None or _standard(roles):
            return value
        channels = sizes(roles, self.shape(node), "C")
        return Value(self.function(from_map, value.high, roles, channels))

    def function(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A ``call_function`` node."""
        return self.graph.call_function(target, args, kwargs)

    def call(self, path: str, module: nn.Module, *args: Any) -> fx.Node:
        """A ``call_module`` node for ``module`` placed at ``path``.

        A parameter among ``args``, or a view of one, is given as a copy: FLOP counters and other trackers
        hook what flows into a module, and cannot hook a parameter itself under ``no_grad``.
        """
        return self.graph.call_module(self._placed(path, module), fx.map_arg(args, self._no_parameter))

    def _placed(self, path: str, module: nn.Module) -> str:
        """Put ``module`` at ``path``, or beside it where another is: a pool may read dense maps, too."""
        name = path
        for number in itertools.count(1):
            there = self.modules.get(name)
            taken = name != path and name in self.traced._modules
            if not taken and (there is None or there is module or _alike(there, module)):
                break
            name = f"{path}_{number}"
        self.modules.setdefault(name, module)
        return name

    def _no_parameter(self, node: fx.Node) -> fx.Node:
        return self.function(torch.clone, node) if _is_constant(node) else node

    def pair(self, call: fx.Node, mask: Mask | None) -> Value:
        """The value of a node that yields a (high, low) tuple."""
        high = None if mask is not None and mask.all() else self.function(getitem, call, 0)
        return Value(high, None if mask is None else self.function(getitem, call, 1), mask)

    def copy(self, node: fx.Node, lookup: Callable[[fx.Node], fx.Node] | None = None) -> fx.Node:
        """The node as it was, on dense operands (or on what ``lookup`` gives for them)."""
        result = self.graph.node_copy(node, lookup or self.dense)
        if node.op == "call_method" and node.target == "view" and not _asks_for_type(node):
            result.target = "reshape"  # the same, and of a merged map with its dimensions moved, too
        layer = self.traced.submodule(node)
        if isinstance(layer, CalledAsFunction):
            result.op, result.target = "call_function", layer.function
            result.meta[PLACE] = str(node.target)
            result.kwargs = {**result.kwargs, **layer.settings}
        elif node.op == "call_module":
            result.target = self._placed(str(node.target), self.module(node))
        elif node.op == "get_attr":
            self.modules[str(node.target)] = attribute(self.traced.module, str(node.target))
        return result

    def per_branch(self, node: fx.Node, operand: fx.Node) -> Value:
        """The node applied to each branch of its one tensor operand."""

        def branch(part: fx.Node) -> fx.Node:
            return self.copy(node, lambda n: part if n is operand else self.dense(n))

        return self._values[operand].each(branch)

    def any_branch(self, node: fx.Node) -> fx.Node:
        """A branch of a value, for what asks it for its type and device alone."""
        value = self._values[node]
        branch = value.high if value.high is not None else value.low
        assert branch is not None
        return branch

    def join(self, node: fx.Node, reduced: Value) -> fx.Node:
        """The parts of a value reduced over space, in channel order."""
        result = reduced.high if reduced.mask is None else self._merge(node, reduced, reduced=True)
        assert result is not None
        return result

    def set(self, node: fx.Node, value: Value) -> None:
        """Keep the rewritten value of ``node``."""
        self._values[node] = value

    def is_octave(self, node: fx.Node) -> bool:
        """Return whether a node's value, or a part of it, has low channels."""
        return self._values[node].octave or any(part.octave for part in self.parts.get(node.name, ()))

    def _merge(self, node: fx.Node, value: Value, reduced: bool = False) -> fx.Node:
        assert value.mask is not None
        low = indices(value.mask)
        reduced = reduced or is_reduced(map_shape(self.roles(node), self.shape(node)))
        path = self._boundary("merge", node, reduced)
        return self.call(path, MergeOctave(len(value.mask), low), value.high, value.low)

    def _split(self, node: fx.Node, whole: fx.Node, mask: Mask, roles: str) -> Value:
        shape = map_shape(roles, self.traced.shape(node) or ())
        path = self._boundary("split", node, is_reduced(shape))
        split = SplitOctave(len(mask), indices(mask))
        return self.pair(self.call(path, split, whole), mask)

    def _boundary(self, kind: str, node: fx.Node, reduced: bool) -> str:
        count = sum(b.kind == kind for b in self.boundaries)
        path = f"octave_{kind}_{count}"
        consumer = self.consumer
        assert consumer is not None
        refusal = self.resolved.layout.refusals.get(consumer.name)
        default = "its other operand is octave" if kind == "split" else "it is computed on the dense map"
        shape = self.traced.shape(node) or ()
        self.boundaries.append(
            Boundary(
                kind,
                path,
                display_name(node),
                display_name(consumer),
                refusal.reason if refusal else default,
                shape,
                reduced,
            )
        )
        return path


def _alike(one: Any, other: Any) -> bool:
    """Return whether two modules without tensors have the same class and the same settings."""
    held = (part for each in (one, other) for part in (*each.children(), *each.parameters(), *each.buffers()))
    tensors = (value for each in (one, other) for value in vars(each).values() if isinstance(value, Tensor))
    if type(one) is not type(other) or any(True for _ in (*held, *tensors)):
        return False
    return bool({**vars(one), "training": None} == {**vars(other), "training": None})


def _is_constant(node: fx.Node) -> bool:
    """Return whether a value is computed by functions and methods from parameters and buffers alone."""
    left = [node]
    while left:
        each = left.pop()
        if each.op not in ("get_attr", "call_function", "call_method"):
            return False
        if each.op != "get_attr" and not each.all_input_nodes:
            return False
        left += each.all_input_nodes
    return True


def _asks_for_type(view: fx.Node) -> bool:
    """Return whether ``x.view(...)`` reads the same bytes as another dtype, which ``reshape`` does not do."""
    return (
        any(isinstance(a, torch.dtype) for a in (*view.args, *view.kwargs.values())) or "dtype" in view.kwargs
    )


def display_name(node: fx.Node) -> str:
    """Name of a node in reports: its module path, or the function's name."""
    if node.op == "call_module":
        return str(node.target)
    if node.op == "call_function":
        return f"{getattr(node.target, '__name__', node.target)} ({node.name})"
    return node.name


def _standard(roles: str) -> bool:
    return roles == standard_roles(len(roles))


def _same(a: Mask | None, b: Mask | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)

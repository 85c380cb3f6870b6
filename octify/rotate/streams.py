"""Streams: values of one basis, with all that writes and reads them.

A stream is what must be multiplied by one matrix: the values that sums, shared modules and operations that
mixtures pass through (``octify.rotate.passing``) tie together. It can be rotated if all that writes it is
linear and mixes all its channels (a dense convolution or linear layer, BatchNorm behind it included), and so
is all that reads it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from octify.export.fold import is_linear_in_weight
from octify.export.norm import norm_of
from octify.ops import table
from octify.ops.base import operand
from octify.rotate.passing import Channels, passed
from octify.trace import Traced

Mixing = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
_MIXING = (_ConvNd, nn.Linear)
_SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub)
_SUM_METHODS = ("add", "add_", "sub", "sub_")
_SIZES = ("size", "dim", "ndimension", "numel")


@dataclass(frozen=True)
class Writer:
    """A layer that writes a stream, and the BatchNorm behind it, if there is one; paths."""

    path: str
    norm: str | None


@dataclass(frozen=True)
class Reader:
    """A layer that reads a stream, at the nodes ``calls``; ``flat`` as in ``passing.Channels``."""

    path: str
    calls: tuple[str, ...]
    flat: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Values of one basis, of ``channels`` channels.

    reason:
        Why it cannot be rotated; None if it can.
    """

    channels: int
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    reason: str | None

    @property
    def name(self) -> str:
        """The path of what writes it first."""
        return self.writers[0].path


def streams(traced: Traced) -> tuple[Stream, ...]:
    """Every stream that a dense convolution or linear layer writes, in order of execution."""
    walk = _Walk(traced)
    for node in traced.module.graph.nodes:
        walk.visit(node)
    return walk.found()


@dataclass
class _Group:
    """A stream in the making; ``reasons`` in order of execution."""

    channels: int
    writers: list[tuple[str, fx.Node]] = field(default_factory=list)
    readers: list[tuple[str, fx.Node, Channels]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class _Walk:
    """The walk over the graph; values are united as they turn out to have one basis."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self._where: dict[fx.Node, Channels] = {}
        self._parent: dict[fx.Node, fx.Node] = {}
        self._groups: dict[fx.Node, _Group] = {}
        self._norms: dict[str, set[str | None]] = {}  # behind a layer
        self._first_in: dict[str, fx.Node] = {}
        self._first_out: dict[str, fx.Node] = {}
        self._owners = _owners(traced)

    # What is said about values. -----------------------------------------------------------------------------

    def _root(self, node: fx.Node) -> fx.Node:
        while self._parent.get(node, node) is not node:
            node = self._parent[node]
        return node

    def _group(self, node: fx.Node) -> _Group:
        return self._groups[self._root(node)]

    def _known(self, node: object) -> bool:
        return isinstance(node, fx.Node) and node in self._where

    def _begin(self, node: fx.Node, where: Channels) -> None:
        shape = self.traced.shape(node) or ()
        channels = shape[where.dim] if len(shape) > where.dim else 0
        self._where[node] = where
        self._groups[node] = _Group(channels)

    def _refuse(self, node: fx.Node, reason: str) -> None:
        if node in self._where:
            self._group(node).reasons.append(reason)

    def _tie(self, a: fx.Node, b: fx.Node) -> None:
        first, other = self._root(a), self._root(b)
        if first is other:
            return
        mine, theirs = self._groups[first], self._groups.pop(other)
        if mine.channels != theirs.channels:
            mine.reasons.append("a module is called with different numbers of channels")
        mine.writers += theirs.writers
        mine.readers += theirs.readers
        mine.reasons += theirs.reasons
        self._parent[other] = first

    # The rules, one for each kind of node. --------------------------------------------------------------------

    def visit(self, node: fx.Node) -> None:
        """Take in one node, whose operands were taken in before."""
        module = self.traced.submodule(node)
        if node.op == "output":
            for source in node.all_input_nodes:
                self._refuse(source, "the model returns it")
        elif isinstance(module, _MIXING):
            self._layer(node, module)
        elif (before := self._normalised(node)) is not None:
            self._where[node] = self._where[before]
            self._parent[node] = before
        elif node.op == "call_function" and node.target in _SUMS:
            self._sum(node)
        elif node.op == "call_method" and node.target in _SUM_METHODS:
            self._sum(node)
        elif not self._passes(node):
            self._stop(node)

    def _layer(self, node: fx.Node, module: nn.Module) -> None:
        path, source = str(node.target), operand(node)
        reason = self._no_mixing(node, module)
        for other in node.all_input_nodes:
            if other is not source:
                self._refuse(other, f"{path} computes with it")
        where = self._where.get(source) if isinstance(source, fx.Node) else None
        out = Channels((len(self.traced.shape(node) or ()) - 1) if isinstance(module, nn.Linear) else 1)
        self._begin(node, out)
        self._norms.setdefault(path, set())
        if reason is not None:
            self._refuse(node, reason)
            if where is not None:
                self._refuse(source, reason)
            return
        self._group(node).writers.append((path, node))
        self._tie(self._first_out.setdefault(path, node), node)
        if where is None:
            return
        if not self._reads_all(node, module, source, where):
            self._refuse(source, f"{path} does not read it as channels")
            return
        self._group(source).readers.append((path, node, where))
        first = self._first_in.setdefault(path, source)
        if self._where[first].flat != where.flat:
            self._refuse(source, f"{path} is called with different sizes")
        self._tie(first, source)

    def _no_mixing(self, node: fx.Node, module: nn.Module) -> str | None:
        """Why a layer does not mix all its channels by a weight of its own; None if it does."""
        path = str(node.target)
        if isinstance(module, _ConvNd) and module.groups > 1:
            alone = module.groups == module.in_channels
            kind = "depthwise: it computes each channel from itself" if alone else "grouped"
            return f"{path} is {kind}"
        if not is_linear_in_weight(module):
            return f"{path} computes its weight, or has hooks"
        if not self._owners.alone(module):
            return f"{path} shares its weights, or is used by code that was not traced"
        shape = self.traced.shape(node) or ()
        if isinstance(module, _ConvNd) and len(shape) != len(module.kernel_size) + 2:
            return f"{path} reads a value without a batch dimension"
        return None if node.args and len(shape) > 1 else f"{path} is called in a way that octify does not follow"

    def _reads_all(self, node: fx.Node, module: nn.Module, source: fx.Node, where: Channels) -> bool:
        shape = self.traced.shape(source) or ()
        if isinstance(module, nn.Linear):
            return where.dim == len(shape) - 1 and module.in_features == shape[where.dim]
        return where == Channels() and module.in_channels == shape[1]

    def _normalised(self, node: fx.Node) -> fx.Node | None:
        """The call of a layer that ``node`` is the BatchNorm of; None if it is none, or has other operands."""
        module, source = self.traced.submodule(node), operand(node)
        norm = None if module is None else norm_of(module)
        if norm is None or module is None or not self._known(source) or list(source.users) != [node]:
            return None
        writers = [path for path, call in self._group(source).writers if call is source]
        plain = not norm.tail and all(
            isinstance(getattr(module, name, None), torch.Tensor) for name in ("weight", "bias")
        )
        if not writers or not plain or self._where[source].dim != 1 or not self._owners.alone(module):
            return None
        self._norms[writers[0]].add(str(node.target))
        return source

    def _sum(self, node: fx.Node) -> None:
        operands = [a for a in node.args if not isinstance(a, (int, float)) or a != 0]
        shapes = [self.traced.shape(a) if isinstance(a, fx.Node) else None for a in operands]
        after = self.traced.shape(node)
        fitting = [s is not None and after is not None and _fits(s, after) for s in shapes]
        tied = [a for a in operands if isinstance(a, fx.Node) and a in self._where]
        ends = [len(s) - self._where[a].dim for s, a in zip(shapes, operands, strict=True) if a in tied and s]
        if len(tied) != len(operands) or not all(fitting) or len(set(ends)) != 1 or not after:
            for source in node.all_input_nodes:
                self._refuse(source, "something that is no sum of linear maps is added to it")
            self._stop(node)
            return
        first = next(a for a, s in zip(tied, shapes, strict=True) if s is not None and len(s) == len(after))
        where = self._where[first]
        if any(self._where[a].flat != where.flat or not _all_channels(s, after, where) for a, s in zip(tied, shapes, strict=True)):
            self._stop(node)
            return
        self._where[node], self._parent[node] = where, first
        for other in tied:
            self._tie(first, other)

    def _passes(self, node: fx.Node) -> bool:
        source = operand(node)
        candidates = [n for n in node.all_input_nodes if n in self._where]
        if not candidates:
            return False
        if not self._known(source):
            source = candidates[0]  # 2 * x
        where = passed(self.traced, node, source, self._where[source])
        if where is None or self.traced.shape(node) is None:
            return False
        for other in candidates:
            if other is not source:
                self._refuse(other, f"{_called(self.traced, node)} multiplies by it")
        self._where[node], self._parent[node] = where, source
        return True

    def _stop(self, node: fx.Node) -> None:
        """Nothing is known to pass through ``node``."""
        asks = node.op == "call_method" and node.target in _SIZES
        if asks or (node.target is getattr and node.args[1:2] in (("shape",), ("ndim",), ("dtype",), ("device",))):
            return
        for source in node.all_input_nodes:
            self._refuse(source, _why_not(self.traced, node))
        shape = self.traced.shape(node)
        if shape is not None and len(shape) > 1 and node not in self._where:
            self._begin(node, Channels())
            self._refuse(node, "it is an input of the model" if node.op == "placeholder" else _why_not(self.traced, node))

    # The result. --------------------------------------------------------------------------------------------

    def found(self) -> tuple[Stream, ...]:
        """The streams that layers write."""
        return tuple(self._stream(group) for group in self._groups.values() if group.writers)

    def _stream(self, group: _Group) -> Stream:
        paths = list(dict.fromkeys(path for path, _ in group.writers))
        norms = {path: self._norms[path] for path in paths}
        calls = Counter(path for path, _ in group.writers)
        reasons = list(group.reasons)
        for path, behind in norms.items():
            called = sum(len(self.traced.calls(norm)) for norm in behind if norm is not None)
            if behind and (len(behind) > 1 or called != calls[path]):
                reasons.append(f"{path} is called at several places, with different norms behind it")
        if group.channels < 2:
            reasons.append("it has a single channel")
        if not group.readers:
            reasons.append("no layer reads it")
        readers: dict[str, Reader] = {}
        for path, node, where in group.readers:
            earlier = readers.get(path, Reader(path, ()))
            readers[path] = Reader(path, (*earlier.calls, node.name), where.flat)
        return Stream(
            group.channels,
            tuple(Writer(path, next(iter(norms[path]), None)) for path in paths),
            tuple(readers.values()),
            reasons[0] if reasons else None,
        )


def _fits(shape: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` is broadcast, if at all, to ``after``."""
    return len(shape) <= len(after) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(after), strict=False)
    )


def _all_channels(shape: Sequence[int] | None, after: Sequence[int], where: Channels) -> bool:
    """Whether an operand has all channels of the result."""
    place = where.dim - len(after) + len(shape or ())
    return shape is not None and place >= 0 and shape[place] == after[where.dim]


def _called(traced: Traced, node: fx.Node) -> str:
    """An operation, as it is named to the user."""
    module = traced.submodule(node)
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))


_ALONE = ("elementwise", "BatchNorm", "PReLU", "norm over positions", "PReLU of given slopes", "pointwise")


def _why_not(traced: Traced, node: fx.Node) -> str:
    """Why mixtures of channels do not pass through ``node``."""
    op = table().find(traced, node)
    name = _called(traced, node)
    if op is None:
        return f"{name} is no linear map that octify knows"
    if op.name in _ALONE:
        return f"{name} acts on each channel by itself"
    return f"{name} ({op.name}) does not treat all channels alike"


class _owners:
    """Which modules' parameters nobody else holds or reads."""

    def __init__(self, traced: Traced) -> None:
        graph = traced.module.graph
        called = {str(n.target): traced.submodule(n) for n in graph.find_nodes(op="call_module")}
        distinct = {id(m): m for m in called.values() if m is not None}.values()
        self._holders = Counter(id(part) for module in distinct for part in module.modules())
        self._tensors = Counter(
            id(tensor)
            for module in traced.whole.modules()
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        )
        self._read: set[int] = set()
        for node in graph.find_nodes(op="get_attr"):
            value = operator.attrgetter(str(node.target))(traced.module)
            owned = value.modules() if isinstance(value, nn.Module) else ()
            self._read |= {id(value), *(id(t) for m in owned for t in (*m.parameters(), *m.buffers()))}

    def alone(self, module: nn.Module) -> bool:
        """Whether ``module``'s tensors are its own, and only the graph's calls use it."""
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        return self._holders[id(module)] == 1 and all(
            self._tensors[id(t)] == 1 and id(t) not in self._read for t in tensors
        )



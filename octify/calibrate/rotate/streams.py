"""Streams: values of one basis, with all that writes and reads them.

A stream is what must be multiplied by one matrix: the values that sums, shared modules and operations that
mixtures pass through (``octify.calibrate.rotate.passing``) tie together. It can be rotated if what writes and
what reads it is linear and mixes all its channels: a dense convolution or linear layer, a BatchNorm behind a
writer included.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from octify.calibrate.rotate.ownership import Ownership
from octify.calibrate.rotate.passing import Channels, passed
from octify.calibrate.rotate.reasons import called, why_not, why_unmixed
from octify.calibrate.rotate.values import Group, Values
from octify.compat import ConvNd
from octify.export.norm import norm_of
from octify.ops.base import operand
from octify.trace import Traced

_SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub)
_SUM_METHODS = ("add", "add_", "sub", "sub_")


@dataclass(frozen=True)
class StreamWriter:
    """A layer that writes a stream, and the BatchNorm that is a part of it, if there is one; paths."""

    path: str
    norm: str | None


@dataclass(frozen=True)
class StreamReader:
    """A layer that reads a stream, at the nodes ``calls``; ``flat`` as in ``passing.Channels``."""

    path: str
    calls: tuple[str, ...]
    flat: tuple[int, ...] = ()


@dataclass(frozen=True)
class LinearStream:
    """Values of one basis, of ``channels`` channels.

    reason:
        Why it cannot be rotated; None if it can.
    """

    channels: int
    writers: tuple[StreamWriter, ...]
    readers: tuple[StreamReader, ...]
    reason: str | None

    @property
    def name(self) -> str:
        """The path of what writes it first."""
        return self.writers[0].path


def streams(traced: Traced) -> tuple[LinearStream, ...]:
    """Every stream that a convolution or linear layer writes, in order of execution."""
    walk = _Walk(traced)
    for node in traced.module.graph.nodes:
        walk.visit(node)
    return walk.result()


class _Walk:
    """The walk over the graph, node by node.

    ``norms`` are those behind a layer, by its path; ``odd`` says of a path why none of its calls can change.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.values = Values(traced)
        self.owners = Ownership(traced)
        self.norms: dict[str, set[str]] = {}
        self.odd: dict[str, str] = {}
        self._first_read: dict[str, fx.Node] = {}
        self._first_written: dict[str, fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        """Take in one node, whose operands were taken in before."""
        module = self.traced.submodule(node)
        if node.op == "output":
            for source in node.all_input_nodes:
                self.values.refuse(source, "the model returns it")
        elif isinstance(module, (ConvNd, nn.Linear)):
            self._layer(node, module)
        elif not (self._normalised(node, module) or self._summed(node) or self._passes(node)):
            self._stop(node)

    def _layer(self, node: fx.Node, layer: ConvNd | nn.Linear) -> None:
        path, source, values = str(node.target), operand(node), self.values
        shape, where = self.traced.shape(node) or (), values.where(source)
        values.begin(node, Channels(len(shape) - 1 if isinstance(layer, nn.Linear) else 1))
        values.group(node).writers.append((path, node))
        for other in node.all_input_nodes:
            if other is not source:
                values.refuse(other, f"{path} computes with it")
        reason = why_unmixed(self.traced, self.owners, node, layer)
        if reason is None and (where is None or not self._reads_all(layer, source, where)):
            reason = f"{path} does not read it as channels"
        if reason is not None or where is None:
            self.odd[path] = reason or ""
            for value in (node, *node.all_input_nodes):
                values.refuse(value, reason or "")
            return
        values.tie(self._first_written.setdefault(path, node), node)
        values.group(source).readers.append((path, node, where))
        first = self._first_read.setdefault(path, source)
        if values.where(first) != where:
            values.refuse(source, f"{path} reads values of different sizes as channels")
        values.tie(first, source)

    def _reads_all(self, layer: ConvNd | nn.Linear, source: fx.Node, where: Channels) -> bool:
        """Return whether a layer reads the channels of ``source`` where they are."""
        shape = self.traced.shape(source) or ()
        if isinstance(layer, nn.Linear):
            return where.dim == len(shape) - 1 and layer.in_features == shape[where.dim]
        return where == Channels() and layer.in_channels == shape[1]

    def _normalised(self, node: fx.Node, module: nn.Module | None) -> bool:
        """A BatchNorm that alone reads what a layer writes is a part of the layer."""
        source = operand(node)
        norm = None if module is None else norm_of(module)
        if norm is None or module is None or source not in self.values or list(source.users) != [node]:
            return False
        writers = [path for path, call in self.values.group(source).writers if call is source]
        stored = (getattr(module, name, None) for name in ("weight", "bias"))
        plain = not norm.tail and all(isinstance(tensor, Tensor) for tensor in stored)
        where = self.values.where(source)
        if not writers or not plain or where != Channels() or not self.owners.alone(module):
            return False
        self.norms.setdefault(writers[0], set()).add(str(node.target))
        self.values.follow(node, source, where)
        return True

    def _summed(self, node: fx.Node) -> bool:
        """A sum of values with the same channels; of one of them with 0, too, as ``sum`` begins."""
        if node.target not in (_SUMS if node.op == "call_function" else _SUM_METHODS):
            return False
        terms = [a for a in node.args if not (isinstance(a, (int, float)) and a == 0)]
        after = self.traced.shape(node) or ()
        places = [self._place(term, after) for term in terms]
        if not terms or None in places or len(set(places)) != 1:
            return False
        first = next((t for t in node.all_input_nodes if self.traced.shape(t) == after), None)
        where = self.values.where(first)
        if first is None or where is None:
            return False
        self.values.follow(node, first, where)
        for term in node.all_input_nodes:
            self.values.tie(first, term)
        return True

    def _place(self, term: object, after: Sequence[int]) -> tuple[int, tuple[int, ...]] | None:
        """Position of a term's channels in the sum, of shape ``after``; None if it is no such term."""
        where = self.values.where(term)
        shape = self.traced.shape(term) if isinstance(term, fx.Node) else None
        if where is None or shape is None or len(shape) > len(after):
            return None
        place = len(after) - len(shape) + where.dim
        fits = all(n in (1, m) for n, m in zip(reversed(shape), reversed(after), strict=False))
        return (place, where.flat) if fits and shape[where.dim] == after[place] else None

    def _passes(self, node: fx.Node) -> bool:
        """An operation that mixtures of its first operand pass through."""
        candidates = [n for n in node.all_input_nodes if n in self.values]
        source = operand(node)
        source = source if source in candidates else next(iter(candidates), None)  # 2 * x
        channels = self.values.where(source)
        if source is None or channels is None or self.traced.shape(node) is None:
            return False
        where = passed(self.traced, node, source, channels)
        if where is None:
            return False
        for other in candidates:
            if other is not source:
                self.values.refuse(other, f"{called(self.traced, node)} computes with it")
        self.values.follow(node, source, where)
        return True

    def _stop(self, node: fx.Node) -> None:
        """Nothing is known to pass through ``node``."""
        if _asks(node):
            return
        why = "it is an input of the model" if node.op == "placeholder" else why_not(self.traced, node)
        for source in node.all_input_nodes:
            self.values.refuse(source, why)
        shape = self.traced.shape(node)
        if shape is not None and len(shape) > 1:
            self.values.begin(node, Channels())
            self.values.refuse(node, why)

    def result(self) -> tuple[LinearStream, ...]:
        """The streams that layers write."""
        return tuple(self._stream(group) for group in self.values.groups() if group.writers)

    def _stream(self, group: Group) -> LinearStream:
        writers = tuple(
            StreamWriter(path, next(iter(self.norms.get(path, ())), None))
            for path in dict.fromkeys(path for path, _ in group.writers)
        )
        readers: dict[str, StreamReader] = {}
        for path, node, where in group.readers:
            earlier = readers.get(path, StreamReader(path, ()))
            readers[path] = StreamReader(path, (*earlier.calls, node.name), where.flat)
        reasons = [*group.reasons, *self._against(group, writers, readers)]
        return LinearStream(group.channels, writers, tuple(readers.values()), reasons[0] if reasons else None)

    def _against(
        self, group: Group, writers: Sequence[StreamWriter], readers: Mapping[str, StreamReader]
    ) -> list[str]:
        """Reason against rotating a group once it is complete."""
        reasons = [self.odd[path] for path in (*(w.path for w in writers), *readers) if path in self.odd]
        calls = Counter(path for path, _ in group.writers)
        for path in calls:
            norms = self.norms.get(path, set())
            times = sum(len(self.traced.calls(norm)) for norm in norms)
            if norms and (len(norms) > 1 or times != calls[path]):
                reasons.append(f"{path} or the norm behind it is called at several places that are not alike")
        if not readers:
            reasons.append("no layer reads it")
        return reasons if group.channels > 1 else ["it has a single channel"]


def _asks(node: fx.Node) -> bool:
    """Return whether an operation asks for a value's shape or type only."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "ndimension", "numel")
    return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")

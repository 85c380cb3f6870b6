"""Comparison with runs at another batch and another size: constant dimensions, and readers of the others.

The graph so far is run again on fake inputs of another batch, and of another height and width. A dimension
that is the same there is the model's own: a number of channels. Where a twin cannot be run, nothing is known
to be constant, and every size stays open, which is right if roundabout.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, fx

from octify.trace.asked import FOREIGN

Run = Callable[[fx.Node, Mapping[fx.Node, Any]], Any]


@dataclass(frozen=True)
class Question:
    """A question about sizes that the model's code decided by.

    path:
        Path of the module whose code it is.
    text, where:
        The line, and its ``file:line``.
    fixes:
        Whether the answer is a number: then one size alone will do, and not every one of a kind.
    """

    path: str
    text: str
    where: str | None
    fixes: bool


def asking_line(path: str, answer: Any) -> Question:
    """The question that the model's code, which is running, asks now."""
    fixes = not isinstance(answer, bool)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(FOREIGN):
        frame = None if frame.f_code.co_name == "symbolic_trace" else frame.f_back
    if frame is None:
        return Question(path, "a size", None, fixes)
    file, line = frame.f_code.co_filename, frame.f_lineno
    return Question(path, linecache.getline(file, line).strip() or "a size", f"{file}:{line}", fixes)


class Twins:
    """A traced graph's values at another batch, at another size of the maps, and with one more channel.

    inputs:
        The placeholders' fake tensors.
    run:
        Computes a node from the values of others; None where it cannot.
    """

    def __init__(self, inputs: Mapping[fx.Node, Tensor], mode: Any, run: Run) -> None:
        self._run = run
        first = next((t.shape[0] for t in inputs.values() if t.ndim), 1)
        with mode:
            self._values: tuple[dict[fx.Node, Any], ...] = (
                {node: _with(t, 0, 1 if t.ndim and t.shape[0] == first else 0) for node, t in inputs.items()},
                {node: _larger(t) for node, t in inputs.items()},
                {node: _with(t, 1, 1 if t.ndim > 1 else 0) for node, t in inputs.items()},
            )
        self._dependent: set[fx.Node] = set(inputs)
        self._last: fx.Node | None = None
        self._seen: set[fx.Node] = set()

    def is_constant(self, node: fx.Node, dim: int) -> bool:
        """Return whether dimension ``dim`` of a node's tensor is one number, whatever the inputs' sizes.

        Positions are never taken for constant: a map may be cropped to a size that both twins exceed.
        """
        self._advance(node)
        if node not in self._dependent:
            return True
        # The first convolution allows one number of channels; before it, dimension 1 may be time.
        other = _size(self._values[2].get(node), dim)
        return self.is_channels(node, dim) and other in (None, _size(self._values[0].get(node), dim))

    def is_channels(self, node: fx.Node, dim: int) -> bool:
        """Return whether dimension ``dim`` depends neither on the batch nor on the size of the maps."""
        self._advance(node)
        sizes = [_size(values.get(node), dim) for values in self._values[:2]]
        return dim == 1 and None not in sizes and sizes[0] == sizes[1]

    def is_batch(self, node: fx.Node, dim: int, size: int) -> bool:
        """Return whether dimension ``dim`` of a node's tensor, here ``size``, changes with the batch size."""
        self._advance(node)
        other = _size(self._values[0].get(node), dim)
        return node in self._dependent and (dim == 0 or (other is not None and other != size))

    def pairs(self, a: fx.Node, b: fx.Node) -> list[tuple[Any, Any]]:
        """The values of two nodes, of those twins that have both."""
        for node in (a, b):
            self._advance(node)
        return [(values[a], values[b]) for values in self._values if a in values and b in values]

    def lengths(self, node: fx.Node) -> tuple[int | None, int | None]:
        """Lengths of a sequence at another batch and at another size; None where they are unknown."""
        self._advance(node)
        batch, size = (values.get(node) for values in self._values[:2])
        return (
            len(batch) if isinstance(batch, (tuple, list)) else None,
            len(size) if isinstance(size, (tuple, list)) else None,
        )

    def _advance(self, node: fx.Node) -> None:
        """Run all nodes up to ``node`` that were not run yet, in their order."""
        while node not in self._seen:
            self._last = next(iter(node.graph.nodes)) if self._last is None else self._last.next
            self._compute(self._last)

    def notice(self, node: fx.Node) -> None:
        """Run a node that was added among others."""
        self._advance(node.prev)
        self._compute(node)

    def _compute(self, node: fx.Node) -> None:
        self._seen.add(node)
        if any(n in self._dependent for n in node.all_input_nodes):
            self._dependent.add(node)
        for values in self._values:
            if node.op != "placeholder" and all(n in values for n in node.all_input_nodes):
                value = self._run(node, values)
                if value is not None:
                    values[node] = value


def _size(value: Any, dim: int) -> int | None:
    return int(value.shape[dim]) if isinstance(value, Tensor) and dim < value.ndim else None


def _with(tensor: Tensor, dim: int, more: int) -> Tensor:
    shape = list(tensor.shape)
    if more:
        shape[dim] += more
    return tensor.new_empty(shape)


def _larger(tensor: Tensor) -> Tensor:
    """Twice as many positions along every axis: what divides the sizes still does."""
    return tensor.new_empty([*tensor.shape[:2], *(2 * n for n in tensor.shape[2:])])

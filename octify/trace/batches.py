"""Questions about the batch that make no difference.

A graph is for any batch, so nothing that depends on it is told. But some code only asks: ``if x.numel() >
2**31: x = x.contiguous()``. Such a question is answered as for the example where the other answer leads to
the same graph, or to an error that the model raises itself; then the graph checks the answer.
"""

from __future__ import annotations

import dis
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from octify.compat import tree_map
from octify.trace.asked import is_the_models_file
from octify.trace.twins import Question

_LINES = 8  # asked about one by one, each a trace of the model
_TIMES = 16  # a line that asks so often in one module, with one answer, goes round in circles
_COMPARISONS = (operator.eq, operator.ne, operator.gt, operator.lt, operator.ge)
_SAME = ("contiguous",)  # what returns the values that it is given


@dataclass(frozen=True)
class Batches:
    """Answers to questions about the batch, by the line that asks.

    lines:
        Lines that are answered; None for all.
    turned:
        Lines that are answered otherwise than for the example.
    checked:
        Lines whose answer the graph checks.
    counts:
        How often each line has asked, by module.
    """

    lines: frozenset[str] | None = None
    turned: frozenset[str] = frozenset()
    checked: frozenset[str] = frozenset()
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def answer(self, question: Question, example: bool) -> bool | None:
        """The answer, which is ``example`` for the example; None for none."""
        line = question.where or question.text
        asker = question.path, line
        self.counts[asker] = self.counts.get(asker, 0) + 1
        if self.counts[asker] > _TIMES or (self.lines is not None and line not in self.lines):
            return None
        return example is not (line in self.turned)

    @property
    def are_all(self) -> bool:
        """Return whether every question is answered, and none needs a check."""
        return self.lines is None and not self.checked

    def is_checked(self, question: Question) -> bool:
        """Return whether the graph checks the answer to ``question``."""
        return (question.where or question.text) in self.checked


Trace = Callable[[Batches], fx.Graph]


def settled(first: Batches, graph: fx.Graph, trace: Trace) -> Batches:
    """Answers to the questions that made no difference to ``graph``, traced with ``first``."""
    lines = frozenset(line for _, line in first.counts)
    form = _form(graph)
    if _effect(lines, form, trace) == "none":
        return Batches()
    if len(lines) > _LINES:
        return Batches(lines=frozenset())
    effects = {line: _effect(frozenset({line}), form, trace) for line in sorted(lines)}
    none = frozenset(line for line, effect in effects.items() if effect == "none")
    checked = frozenset(line for line, effect in effects.items() if effect == "error")
    if len(none) > 1 and _effect(none, form, trace) != "none":
        none = frozenset()
    return Batches(lines=none | checked, checked=checked)


def _effect(turned: frozenset[str], form: list[Any], trace: Trace) -> str:
    """The effect of the other answers to lines: none, an error of the model's own, or another graph."""
    try:
        other = trace(Batches(turned=turned))
    except Exception as error:
        return "error" if _is_raised_by_the_model(error) else "other"
    return "none" if _form(other) == form else "other"


def _is_raised_by_the_model(error: Exception) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code = last.tb_frame.f_code
    return is_the_models_file(code.co_filename) and dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def asks_if_empty(node: fx.Node) -> bool:
    """Return whether a condition compares a number of samples with none."""
    number = 1 if node.target in (operator.lt, operator.ge) else 0
    return node.target in _COMPARISONS and len(node.args) == 2 and node.args[1] in (number,)


def _form(graph: fx.Graph) -> list[Any]:
    """Form of what a graph computes, less what returns its operand."""
    numbers: dict[fx.Node, Any] = {}
    form: list[Any] = []
    for node in graph.nodes:
        if node.op == "call_method" and node.target in _SAME:
            numbers[node] = numbers[node.args[0]]
            continue
        numbers[node] = _Number(len(form))
        form.append((node.op, node.target, _named(node.args, numbers), _named(node.kwargs, numbers)))
    return form


@dataclass(frozen=True)
class _Number:
    """Stands for a node among the arguments of others."""

    place: int


def _named(arguments: Any, numbers: Mapping[fx.Node, _Number]) -> str:
    named = tree_map(lambda leaf: numbers.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf, arguments)
    return repr(named)

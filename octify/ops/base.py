"""Interface of an operation family, and the look-up of a node's family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from octify.compat import CONV_FORWARD
from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.ops.emitter import Emitter, Value
from octify.ops.walk import Walk
from octify.trace.attached import attached
from octify.trace.function_layers import CalledAsFunction
from octify.trace.leaves import qualified_name
from octify.trace.model import Traced

LayoutRule = Callable[[Walk, fx.Node], Ids | View | Refusal | None]
EmitRule = Callable[[Emitter, fx.Node], Value]


@dataclass(frozen=True)
class Op:
    """One family of operations.

    Parameters
    ----------
    name:
        Used in reports and errors.
    layout:
        ``layout(walk, node)`` -> ids of the output's channels, a ``Refusal``, or None for an
        output without spatial dimensions (it is dense).
    emit:
        ``emit(emitter, node)`` -> the rewritten value. Only called when an operand or the
        result is octave; dense nodes are copied.
    modules:
        Module classes, or their qualified names when the library may be missing. A subclass
        is handled too unless it overrides ``forward``.
    functions, methods:
        Functions, or their qualified names when the library may be missing; tensor method names.
    views:
        Whether the rule knows values whose channels are not in dimension 1 (``octify.layout.roles``).
        Other operations merge them first.
    any_forward:
        Whether subclasses that override ``forward`` are handled too: the rules look at what it does.
    """

    name: str
    layout: LayoutRule
    emit: EmitRule
    modules: Sequence[type[nn.Module] | str] = ()
    functions: Sequence[Callable[..., Any] | str] = ()
    methods: Sequence[str] = ()
    views: bool = False
    any_forward: bool = False


class Table:
    """Finds the ``Op`` of a node; the first family that lists a target wins."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._modules: dict[str, Op] = {}
        self._functions: dict[Callable[..., Any] | str, Op] = {}
        self._methods: dict[str, Op] = {}
        for op in ops:
            for kind in op.modules:
                self._modules.setdefault(kind if isinstance(kind, str) else qualified_name(kind), op)
            for function in op.functions:
                self._functions.setdefault(function, op)
            for method in op.methods:
                self._methods.setdefault(method, op)

    def find(self, traced: Traced, node: fx.Node) -> Op | None:
        """The family of ``node``, or None."""
        if node.op == "call_module":
            module = traced.submodule(node)
            if module is None or attached(module) is not None:
                return None
            return self.find_module(module.layer if isinstance(module, CalledAsFunction) else type(module))
        if node.op == "call_function":
            function: Any = node.target
            name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
            return self._functions.get(function) or self._functions.get(name)
        if node.op == "call_method":
            return self._methods.get(str(node.target))
        return None

    def find_module(self, kind: type) -> Op | None:
        """The family of a module class: its own, or that of a base whose ``forward`` it keeps.

        An ``any_forward`` family takes subclasses with a ``forward`` of their own too.
        """
        for base in kind.__mro__:
            op = self._modules.get(qualified_name(base))
            if op is not None:
                return op if base is kind or op.any_forward or _same_forward(kind, base) else None
        return None


def _same_forward(kind: type, base: type) -> bool:
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in CONV_FORWARD)


def operand(node: fx.Node, index: int = 0, name: str = "input") -> Any:
    """A positional or keyword argument of a node."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)

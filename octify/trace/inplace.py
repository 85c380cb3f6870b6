"""Operations that change their operand in place, made visible in a traced graph.

``x.mul_(gain)`` as a statement leaves no trace in FX's data flow: nobody reads its result, so it
would be taken for dead, and what reads ``x`` later would read the unchanged value. Here every later
reader of the operand reads the result instead, which is the same tensor; ``x += y`` is then ``x + y``.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import Tensor, fx, nn

from octify.nn.assign import assigned
from octify.trace.aliases import aliases
from octify.trace.asked import by_the_model
from octify.trace.instances import read_by_python
from octify.trace.views import is_number, overlapping
from octify.trace.written_back import Memory, write_back

OUT_OF_PLACE: dict[Any, Any] = {  # by the operator that changes its left operand
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
}
# They change how a tensor is used, not what it holds.
_OF_NO_VALUES = ("requires_grad_", "share_memory_", "rename_", "retain_grad_")


class InPlaceProxy(fx.Proxy):
    """A proxy that records ``x += y`` as what it is: FX makes ``x = x + y`` of it, whatever else is ``x``.

    What the model's code asks of its type is noted: here nothing is known of it.
    """

    @property
    def __class__(self) -> type:
        if read_by_python():
            self._note()
        return type(self)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("a proxy's class cannot be changed")

    def python_value(self) -> Any:
        """Value for Python's ``isinstance`` to look at; the question is noted."""
        self._note()
        return None

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            self._note()
        return super().__getattr__(name)

    def _note(self) -> None:
        tracer: Any = self.tracer
        tracer.asks_types = tracer.asks_types or by_the_model()

    def _record(self, target: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", assigned, (self, index, value), {})

    def __iadd__(self, other: Any) -> Any:
        return self._record(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._record(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._record(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._record(operator.itruediv, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self._record(operator.ifloordiv, other)

    def __imod__(self, other: Any) -> Any:
        return self._record(operator.imod, other)

    def __ipow__(self, other: Any) -> Any:
        return self._record(operator.ipow, other)

    def __iand__(self, other: Any) -> Any:
        return self._record(operator.iand, other)

    def __ior__(self, other: Any) -> Any:
        return self._record(operator.ior, other)


def make_visible(module: nn.Module, graph: fx.Graph, memory: Memory | None = None) -> None:
    """Let later readers of what an operation changes in place read the operation's result.

    Parameters
    ----------
    memory:
        Which values share memory, where that is known.

    Raises
    ------
    ValueError
        A view of the same memory is read later, and there is no way from the one to the other.
    """
    place = {node: index for index, node in enumerate(graph.nodes)}
    written: set[fx.Node] = set()

    def later(node: fx.Node, than: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if place[user] > place[than]]

    for node in graph.nodes:
        changed = None if node in written else changed_by(module, node)
        if changed is None:
            continue
        same = aliases(module, changed)
        if memory is not None:
            same |= {each for each in _relatives(same) if memory.are_one(each, changed)}
        # A view that is made later is one of the result.
        relatives = {
            each
            for each in _relatives(same) - same
            if place[each] < place[node] and (memory is None or memory.share(each, changed) is not False)
        }
        readers = {user for r in relatives for user in later(r, node)} - {node, *relatives}
        back = min((place[user] for user in readers if _puts_back(user, node, changed)), default=len(place))
        if any(place[user] < back for user in readers):
            added = None if memory is None else write_back(graph, same, changed, node, memory)
            if added is None:
                raise ValueError(f"it changes a value in place ({node.name}) of which a view is read later")
            written.update(added)
            place = {each: index for index, each in enumerate(graph.nodes)}
            same = set()
        for alias in same:
            for user in later(alias, node):
                user.replace_input_with(alias, node)
        if "out" in node.kwargs:  # the result is a tensor of its own now
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in OUT_OF_PLACE:
            node.target = OUT_OF_PLACE[node.target]


def _puts_back(user: fx.Node, node: fx.Node, part: fx.Node) -> bool:
    """Return whether ``user`` writes ``node``, a changed ``part``, back to its place: ``x[0] += 1``."""
    return user.target is assigned and user.args[2] is node and part.args[:2] == user.args[:2]


def changed_by(module: nn.Module, node: fx.Node) -> fx.Node | None:
    """The operand that ``node`` changes in place; None if it changes none."""
    if node.op == "call_function" and node.kwargs.get("out") is not None:
        if isinstance(node.kwargs["out"], fx.Node):
            return node.kwargs["out"]
        raise ValueError(f"it writes its results ({node.name}) into several tensors")
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node) or is_number(first):
        return None
    return first if _in_place(module, node) else None


def _in_place(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _says_so(str(node.target))
    if node.op != "call_function":
        return False
    target: Any = node.target
    return (
        target in OUT_OF_PLACE
        or target is assigned
        or _says_so(getattr(target, "__name__", ""))
        or _flagged(node, target)
    )


def _says_so(name: str) -> bool:
    """PyTorch's convention: a trailing underscore."""
    return name.endswith("_") and not name.endswith("__") and name not in _OF_NO_VALUES


def _flagged(node: fx.Node, target: Any) -> bool:
    """Return whether a function is called with ``inplace=True``, by position or by name."""
    if not any(a is True for a in (*node.args, *node.kwargs.values())):
        return False  # most nodes: signatures are slow to read
    if node.kwargs.get("inplace") is True:
        return True
    try:
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return False
    return bound.arguments.get("inplace") is True


def _relatives(nodes: set[fx.Node]) -> set[fx.Node]:
    """Values that may share entries with ``nodes``."""
    return {each for node in nodes for each in overlapping(node)}

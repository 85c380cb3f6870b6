"""Result of tracing: the data of the "trace" arrow."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import fx, nn

from octify.compat import TreeSpec
from octify.trace.arguments import Arguments
from octify.trace.elsewhere import shapes_elsewhere
from octify.trace.facts import Facts, InputSpec


@dataclass(frozen=True)
class Opaque:
    """A module that could not be traced as it should: it is run as it is, or it decides by a size.

    path:
        Empty for the model itself.
    reason:
        Why it is run as it is; or the line that decides.
    where:
        The user's ``file:line``, if it is known.
    fixes:
        Whether a size is a constant of the graph, and not only one of a kind (even, at least 32).
    """

    path: str
    kind: str
    reason: str
    where: str | None
    fixes: bool = False


@dataclass(frozen=True)
class Part:
    """A module of a model that cannot be traced as a whole, with a graph of its own.

    arguments:
        Arguments of its call with the largest input.
    output:
        The form of its result; the graph's own result is the flat tuple of leaves.
    calls:
        Number of calls by input sizes in one run of the model.
    inside:
        Path inside the part of every module and parameter its graph uses, by path in the model.
    alone:
        It is one convolution or linear layer that untraceable code calls: counted, and left as it is.
    """

    path: str
    arguments: Arguments
    output: TreeSpec | None
    calls: Mapping[tuple[InputSpec, ...], int]
    inside: Mapping[str, str]
    alone: bool = False


@dataclass(frozen=True)
class Parts:
    """A model whose root cannot be traced: its parts, in the order of the graph's outputs.

    shell:
        A deep copy of the model, in eval mode; what is not a part runs as it is.
    failure:
        Why and where the root cannot be traced.
    stopped:
        Why the run that was to call every part ended early, if it did.
    rest_macs:
        MACs of functions that the untraceable code calls itself.
    """

    shell: nn.Module
    members: tuple[Part, ...]
    failure: Opaque
    stopped: str | None
    rest_macs: int


@dataclass(frozen=True)
class Traced:
    """A traced model.

    module:
        A GraphModule over a deep copy of the user's model, in eval mode. Of a model in parts: the
        graphs of all parts side by side, each with its own placeholders and a tuple of results.
    inputs:
        The model's example inputs.
    facts:
        Facts by node name; MACs and bytes of a part are those of all its calls.
    opaque:
        Submodules that are run as they are.
    fixed_sizes:
        Modules that decide by a size: the graph holds where they decide as they did for the example.
    parts:
        None for a model that was traced as a whole.
    modes:
        The training mode of every module, by path.
    remarks:
        Warnings about the tracing, in sentences.
    results:
        Path and names of the resulting nodes of every call of a module, in the order of their ends.
    leaves:
        The modules that were to be run as they are, whether or not they can be traced.
    inner:
        The parts inside ``opaque`` (``octify.trace.inner``); None where there are none.
    inside:
        Whether parts inside ``opaque`` may be looked for: not where they would compute something else.
    within:
        Of an ``inner``: paths of the modules that its parts are in.
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    facts: Mapping[str, Facts]
    opaque: tuple[Opaque, ...] = ()
    training: bool = False
    _modules: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)
    fixed_sizes: tuple[Opaque, ...] = ()
    parts: Parts | None = None
    modes: Mapping[str, bool] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    results: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), repr=False)
    leaves: tuple[Opaque, ...] = ()
    inner: Traced | None = None
    inside: bool = True
    within: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Traced:
        """A copy with modules and nodes of its own. What is cached is left out: nodes alone lead to each
        other, and those of a deep network to the end of the stack.
        """
        return replace(
            self,
            module=copy.deepcopy(self.module, memo),
            _modules={path: copy.deepcopy(module, memo) for path, module in self._modules.items()},
            parts=self.parts and replace(self.parts, shell=copy.deepcopy(self.parts.shell, memo)),
            inner=copy.deepcopy(self.inner, memo),
        )

    @property
    def whole(self) -> nn.Module:
        """The module that holds everything the graph uses, and more where the graph is of parts."""
        return self.module if self.parts is None else self.parts.shell

    def is_elsewhere(self, path: str) -> bool:
        """Return whether ``path`` is in another graph: inside an opaque module, or outside of all parts."""
        inside = self.inner is not None and _is_below(path, self.inner.within)
        return inside or (bool(self.within) and not _is_below(path, self.within))

    def reads_input(self, placeholder: fx.Node) -> bool:
        """Return whether a placeholder is one of the model's inputs, and not a feature map inside it.

        In a model in parts, what has as many channels as an input is taken for one (resized, say).
        """
        shape = self.shape(placeholder) or ()
        return self.parts is None or (
            len(shape) > 1 and shape[1] in {s.shape[1] for s in self.inputs if len(s.shape) > 1}
        )

    def shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Shape of a node's tensor at the example inputs; None if it yields no single tensor."""
        return self.facts[node.name].shape

    def shapes(self, node: fx.Node) -> Sequence[tuple[int, ...]]:
        """Shapes of a node's tensor: at the example inputs, and at larger ones where these can be run."""
        return [shape for shape in (self.shape(node), self._elsewhere.get(node.name)) if shape is not None]

    @cached_property
    def _elsewhere(self) -> Mapping[str, tuple[int, ...] | None]:
        members = self.parts.members if self.parts is not None else ()
        inputs = [spec for part in members for spec in part.arguments.inputs] if members else self.inputs
        return shapes_elsewhere(self.module, inputs)

    def submodule(self, node: fx.Node) -> nn.Module | None:
        """The module a ``call_module`` node calls."""
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def calls(self, path: str) -> Sequence[fx.Node]:
        """The nodes that call the module at ``path``, in order of execution."""
        return self._calls.get(path, ())

    @cached_property
    def _calls(self) -> Mapping[str, Sequence[fx.Node]]:
        calls: dict[str, list[fx.Node]] = {}
        for node in self.module.graph.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), []).append(node)
        return calls


def _is_below(path: str, holders: Sequence[str]) -> bool:
    return any(path.startswith(f"{holder}.") for holder in holders)


def attribute(root: nn.Module, path: str) -> Any:
    """The object at a dotted ``path`` below ``root``."""
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    return value

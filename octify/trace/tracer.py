"""FX tracing that keeps every convolution and norm whole and never gives up on a submodule.

A submodule that cannot be traced becomes an opaque leaf (dense in, dense out), the trace is
retried, and the leaf is named with the user's file and line.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.errors import TraceError
from octify.trace.facts import Facts, InputSpec, MeasureError, measure
from octify.trace.leaves import is_kept_whole

_TORCH = str(Path(torch.__file__).parent)
_MOST_OPAQUE = 200


@dataclass(frozen=True)
class Opaque:
    """A submodule that could not be traced, run as it is."""

    path: str
    kind: str
    reason: str
    where: str | None


@dataclass(frozen=True)
class Traced:
    """A traced model: the data of the "trace" arrow.

    ``module`` is a GraphModule over a deep copy of the user's model, in eval mode; ``facts``
    is keyed by node name.
    """

    module: fx.GraphModule
    inputs: tuple[InputSpec, ...]
    facts: Mapping[str, Facts]
    opaque: tuple[Opaque, ...] = ()
    training: bool = False
    _modules: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)

    def shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Shape of a node's tensor at the example inputs; None if it yields no single tensor."""
        return self.facts[node.name].shape

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


class _Tracer(fx.Tracer):
    """Symbolic tracing with octify's leaves, remembering where it failed."""

    def __init__(self, opaque: frozenset[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or is_kept_whole(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = self.path_of_module(m)
            raise


def user_line(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame of ``error`` outside PyTorch and octify."""
    octify = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_TORCH, octify, "<"))
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _fixed_arguments(model: nn.Module, given: int) -> dict[str, Any]:
    """The defaults of forward's arguments beyond the example inputs."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters[:given]):
        return {}
    rest = [
        p
        for p in parameters[given:]
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    ]
    missing = [p.name for p in rest if p.default is inspect.Parameter.empty]
    if missing:
        raise TraceError(
            f"the model's forward needs more inputs: {', '.join(missing)}",
            where=_forward_line(model),
            why=f"{given} example input(s) were given",
            hint="give one example input for each, for instance --input 1x3x224x224 twice",
        )
    if given > len(parameters):
        raise TraceError(
            f"the model's forward takes {len(parameters)} input(s), {given} were given",
            where=_forward_line(model),
        )
    return {p.name: p.default for p in rest}


def _forward_line(model: nn.Module) -> str | None:
    code = getattr(type(model).forward, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else None


def _drop_fixed_placeholders(graph: fx.Graph, inputs: int) -> None:
    """Remove the placeholders (and FX's checks of them) that fixed arguments leave behind."""
    for placeholder in graph.find_nodes(op="placeholder")[inputs:]:
        doomed = [placeholder]
        for node in doomed:
            doomed += [user for user in node.users if user not in doomed]
        for node in reversed(doomed):
            graph.erase_node(node)


def _trace_once(model: nn.Module, inputs: int, fixed: dict[str, Any], tracer: _Tracer) -> fx.GraphModule:
    graph = tracer.trace(model, concrete_args=fixed or None)
    _drop_fixed_placeholders(graph, inputs)
    module = fx.GraphModule(tracer.root, graph, class_name=type(model).__name__)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _trace_with_automatic_leaves(
    model: nn.Module, inputs: int, fixed: dict[str, Any]
) -> tuple[fx.GraphModule, list[Opaque]]:
    opaque: list[Opaque] = []
    while True:
        tracer = _Tracer(frozenset(leaf.path for leaf in opaque))
        try:
            return _trace_once(model, inputs, fixed, tracer), opaque
        except Exception as error:
            path = tracer.failed
            if not path or len(opaque) >= _MOST_OPAQUE:
                raise TraceError(
                    f"{type(model).__name__} cannot be traced",
                    where=user_line(error) or _forward_line(model),
                    why=f"{type(error).__name__}: {first_line(error)}",
                    hint="convert the part of the model that is a plain CNN (its backbone), or rewrite that "
                    "line so that it does not depend on the values of tensors",
                ) from error
            kind = type(model.get_submodule(path)).__name__
            opaque.append(Opaque(path, kind, f"cannot be traced: {first_line(error)}", user_line(error)))


def trace(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> Traced:
    """Trace ``model`` on a deep copy in eval mode and measure it at ``example_inputs``.

    Parameters
    ----------
    model:
        Any module whose forward takes tensors; it is left untouched.
    example_inputs:
        A tensor or a sequence of tensors, on any device including ``meta``.

    Raises
    ------
    TraceError
        The root cannot be traced, or the model rejects the inputs (with the module's path).
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    fixed = _fixed_arguments(model, len(inputs))
    duplicate = copy.deepcopy(model).eval()
    module, opaque = _trace_with_automatic_leaves(duplicate, len(inputs), fixed)
    try:
        facts = measure(module, inputs)
    except MeasureError as error:
        raise _rejected(module, inputs, error) from error
    return Traced(
        module,
        tuple(InputSpec.of(t) for t in inputs),
        facts,
        tuple(opaque),
        model.training,
        dict(module.named_modules(remove_duplicate=False)),
    )


def _rejected(module: fx.GraphModule, inputs: Sequence[Tensor], error: MeasureError) -> TraceError:
    """The error for inputs that the model does not take, at the node that failed."""
    node = error.node
    shapes = " and ".join("x".join(map(str, t.shape)) for t in inputs)
    place = None
    if node is not None:
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
        path = str(node.target) if node.op == "call_module" else (stack[-1] if stack else "")
        kind = type(module.get_submodule(path)).__name__ if node.op == "call_module" else str(node.target)
        place = f"{path or 'the model itself'} ({kind})"
    return TraceError(
        f"the model rejects an input of {shapes}",
        where=place,
        why=first_line(error.cause),
        hint="give the size it was made for, for instance --input 1x3x224x224",
    )

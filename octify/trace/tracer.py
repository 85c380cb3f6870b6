"""FX tracing that keeps every convolution and norm whole and never gives up on a submodule.

Plain symbolic tracing comes first. Where it fails, the model is traced again with values known on fake
tensors (``octify.trace.sizes``): a submodule that fails then becomes an opaque leaf (dense in, dense out),
named with the user's file and line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import textwrap
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from octify.compat import (
    ASSERTIONS,
    FakeTensor,
    FakeTensorMode,
    TreeSpec,
    compiled_functions_opened,
    module_call,
    tree_flatten,
    tree_leaves,
)
from octify.errors import TraceError
from octify.trace.arguments import Arguments
from octify.trace.asked import is_the_models_file
from octify.trace.attached import attached
from octify.trace.batches import Batches, settled
from octify.trace.duplicate import sharing_tensors
from octify.trace.factories import sizes_as_tuples
from octify.trace.function_layers import name_functions
from octify.trace.inplace import make_visible
from octify.trace.instances import instances_answered
from octify.trace.keywords import with_any_names
from octify.trace.leaked import without_proxies
from octify.trace.leaves import is_kept_whole
from octify.trace.model import Opaque, Traced
from octify.trace.numbers import numbers_recorded
from octify.trace.out_of_place import put_apart
from octify.trace.scripted import scripted_opened
from octify.trace.sizes import RecordBatch, SizedTracer
from octify.trace.state import state_kept
from octify.trace.twins import Question
from octify.trace.unbound import unbound_recorded
from octify.trace.wrappers import held_by

__all__ = ["Opaque", "Symbolic", "Traced", "first_line", "symbolic_trace", "user_line"]

Sizing = Literal["anywhere", "nowhere", "known"]


NO_LEAVES: Mapping[str, Opaque] = MappingProxyType({})


@dataclass(frozen=True)
class Symbolic:
    """A graph without facts.

    root:
        The copy of the model that was traced: the graph's module holds its submodules, not all of them.
    output:
        The form of the module's result, where the graph's own is the flat tuple of its leaves.
    results:
        Path and names of the resulting nodes of every call of a module, in the order of their ends.
    """

    module: fx.GraphModule
    root: nn.Module
    opaque: tuple[Opaque, ...]
    fixed_sizes: tuple[Opaque, ...]
    output: TreeSpec | None
    results: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class _Treatment:
    """Paths of modules that tracing cannot enter: what was seen, by path."""

    opaque: dict[str, Opaque]


class _Tracer(SizedTracer):
    """Symbolic tracing of one call, with octify's leaves.

    ``explores``: a submodule that fails is added to the treatment, and tracing goes on. The graph is
    then of no use, for the failed attempt has left its nodes in it.
    """

    def __init__(
        self, arguments: Arguments, treatment: _Treatment, mode: Any, *, flat: bool, explores: bool
    ) -> None:
        super().__init__(mode)
        self.arguments = arguments
        self.treatment = treatment
        self.flat = flat
        self.explores = explores
        self.output: TreeSpec | None = None
        self._entered = [""]
        self.results: list[tuple[str, tuple[str, ...]]] = []

    @property
    def sizes_known(self) -> bool:
        return self._mode is not None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.treatment.opaque or (is_kept_whole(m) and held_by(m) is None)

    def create_arg(self, a: Any) -> Any:
        """Create an argument as FX does, but keep an OrderedDict one."""
        kind: Any = type(a)
        if issubclass(kind, OrderedDict) and dataclasses.is_dataclass(kind):
            # It is made of its fields, less those of None.
            own = {field.name: getattr(a, field.name) for field in dataclasses.fields(kind) if field.init}
            kept = {name: value for name, value in own.items() if value is not None}
            return self.create_proxy("call_function", type(a), (), kept).node
        if isinstance(a, OrderedDict):
            return self.create_proxy("call_function", type(a), (list(a.items()),), {}).node
        return super().create_arg(a)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Placeholders for the tensors of the call alone: everything else is as the call has it."""
        placeholders = []
        for name, spec in zip(self.arguments.names, self.arguments.inputs, strict=True):
            placeholders.append(self.create_proxy("placeholder", name, (), {}))
            self.set_value(placeholders[-1], spec.shape, getattr(torch, spec.dtype))
        args, kwargs = self.arguments.filled(self.root, placeholders)

        def call(root: nn.Module) -> Any:
            if not self.flat:
                return module_call(root, *args, **kwargs)  # with its hooks
            result = root.forward(*args, **kwargs)
            leaves, self.output = tree_flatten(result)
            return tuple(leaves)

        return call, [self.root]

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.computing:
            return forward(*args, **kwargs)
        made_here = m not in (self.submodule_paths or {}) and not [*m.parameters(), *m.buffers()]
        if made_here:  # nn.AvgPool2d(2)(x) is a function
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        held = held_by(m)
        if held is not None and path not in self.treatment.opaque and attached(m) is None:
            return held(*args, **kwargs)
        try:
            return self._enter(path, m, forward, args, kwargs)
        except Exception as error:
            if not self.explores:
                raise
            seen = _seen(path, m, error)
        self.treatment.opaque[path] = seen
        return self._enter(path, m, forward, args, kwargs)

    def _enter(self, path: str, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        stack = self.module_stack.copy()
        self._entered.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
            self.results.append((path, _names(result)))
            return result
        finally:
            self._entered.pop()
            self.module_stack = stack


def _names(result: Any) -> tuple[str, ...]:
    """Names of the nodes of a result's leaves."""
    return tuple(leaf.node.name for leaf in tree_leaves(result) if issubclass(type(leaf), fx.Proxy))


def _seen(path: str, module: nn.Module, error: Exception) -> Opaque:
    return Opaque(
        path, type(module).__name__, f"cannot be traced: {why_untraceable(error)}", user_line(error)
    )


def user_line(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame of ``error`` outside PyTorch and octify."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if is_the_models_file(frame.filename)
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    text = str(error).strip()
    return textwrap.shorten(text.splitlines()[0], 200) if text else type(error).__name__


# What FX says at length, in the words of the user's code.
_PLAIN_WORDS = {
    "symbolically traced variables cannot be used": "its control flow depends on a tensor",
    "Proxy object cannot be iterated": "it loops over a tensor's entries",
    "module is not installed as a submodule": "it calls a module that is not part of it, but "
    "named outside of it; a subclass or a hook can be traced",
}


def why_untraceable(error: BaseException) -> str:
    """Why tracing failed, in a line."""
    text = first_line(error)
    plain = next((words for start, words in _PLAIN_WORDS.items() if text.startswith(start)), None)
    return plain or f"{type(error).__name__}: {text}"


def forward_line(model: nn.Module) -> str | None:
    """``file:line`` of the model's ``forward``."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else None


def arguments_of(model: nn.Module, inputs: Sequence[Tensor]) -> Arguments:
    """The example inputs as positional arguments. TraceError when ``forward`` takes more or fewer."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(inputs) > len(places) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TraceError(
            f"the model's forward takes {len(places)} input(s), {len(inputs)} were given",
            where=forward_line(model),
        )
    rest = [*places[len(inputs) :], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
    missing = [p.name for p in rest if p.default is p.empty]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if missing and missing == by_name:
        raise TraceError(
            f"the model's forward takes {', '.join(by_name)} by keyword only",
            where=forward_line(model),
            why="example inputs are given by position",
            hint="wrap the model in a module whose forward takes its tensors by position",
        )
    if missing:
        raise TraceError(
            f"the model's forward needs more inputs: {', '.join(missing)}",
            where=forward_line(model),
            why=f"{len(inputs)} example input(s) were given",
            hint="give one example input for each, for instance --input 1x3x224x224 twice",
        )
    return Arguments.of(model, inputs, {})


def with_same_tensors(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that holds the very same parameters and buffers.

    Tracing leaves proxies in the caches of some models; each attempt gets a clean copy.
    """
    result: nn.Module = sharing_tensors(model)
    return result


def symbolic_trace(
    model: nn.Module,
    arguments: Arguments,
    *,
    flat: bool = False,
    sizes: Sizing = "anywhere",
    leaves: Mapping[str, Opaque] = NO_LEAVES,
) -> Symbolic:
    """The graph of ``model`` called with ``arguments``.

    Parameters
    ----------
    model:
        In the mode (eval) to be traced in. It is left as it is; the graph's module shares its tensors.
    flat:
        The graph returns the flat tuple of the result's leaves.
    leaves:
        Modules that are run as they are, whether or not they can be traced.
    sizes:
        Places where the arguments' sizes may decide control flow: ``"anywhere"``, or ``"nowhere"`` (they
        are not real ones). ``"known"`` is anywhere, with no try without them.

    Raises
    ------
    TraceError
        ``forward`` itself cannot be traced, whatever becomes of its submodules.
    """
    try:
        if sizes != "known":
            plain, asks = _attempt(model, arguments, _Treatment(dict(leaves)), None, flat=flat)
            if sizes == "nowhere" or not asks:
                return plain
    except Exception:  # it is told by what fails below, with values known
        pass
    mode = None if sizes == "nowhere" else FakeTensorMode(allow_non_fake_inputs=True)
    try:
        return _with_values(model, arguments, leaves, mode, flat=flat)
    except Exception as error:
        failure = error
    raise TraceError(
        f"{type(model).__name__} cannot be traced",
        where=user_line(failure) or forward_line(model),
        why=why_untraceable(failure),
        hint="convert the part of the model that is a plain CNN (its backbone), or rewrite that "
        "line so that it does not depend on the values of tensors",
    ) from failure


def _with_values(
    model: nn.Module, arguments: Arguments, leaves: Mapping[str, Opaque], mode: Any, *, flat: bool
) -> Symbolic:
    """The graph, with values known on fake tensors. What the batch decides is told where it is no matter."""

    def explored(batches: Batches) -> tuple[_Treatment, Symbolic]:
        treatment = _Treatment(dict(leaves))
        _attempt(model, arguments, treatment, mode, flat=flat, explores=True, batches=batches)
        return treatment, _attempt(model, arguments, treatment, mode, flat=flat, batches=batches)[0]

    first = Batches()
    try:
        treatment, symbolic = explored(first)
    except Exception:
        if not first.counts:
            raise
        return explored(Batches(lines=frozenset()))[1]
    if not first.counts:
        return symbolic

    def traced(batches: Batches) -> fx.Graph:
        return _attempt(model, arguments, treatment, mode, flat=flat, batches=batches)[0].module.graph

    answers = settled(first, symbolic.module.graph, traced)
    return symbolic if answers.are_all else explored(answers)[1]


def _attempt(
    model: nn.Module,
    arguments: Arguments,
    treatment: _Treatment,
    mode: Any,
    *,
    flat: bool,
    explores: bool = False,
    batches: Batches | None = None,
) -> tuple[Symbolic, bool]:
    """The graph, and whether the model's code has asked what a value is and got a guess for an answer."""
    tracer = _Tracer(arguments, treatment, mode, flat=flat, explores=explores)
    tracer.batches = batches or tracer.batches
    clean = with_same_tensors(model)
    recorded = contextlib.nullcontext() if mode is None else RecordBatch(tracer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # those of the model's own code are told when it is really used
        for context in (without_proxies(clean), state_kept(clean), sizes_as_tuples(), recorded):
            stack.enter_context(context)
        stack.enter_context(numbers_recorded(clean))
        stack.enter_context(unbound_recorded(clean))
        stack.enter_context(instances_answered())
        stack.enter_context(scripted_opened())
        stack.enter_context(compiled_functions_opened())
        graph = with_any_names(tracer.trace(clean))
    _drop_assertions(graph)
    make_visible(clean, graph, None if mode is None else tracer)
    put_apart(clean, graph)
    if not flat:  # the graph of a part shares its layers with the model around it
        name_functions(clean, graph)
    module = fx.GraphModule(clean, graph, class_name=type(model).__name__)
    module.graph.eliminate_dead_code()
    _refuse_fakes(module)
    module.recompile()
    symbolic = Symbolic(
        module,
        clean,
        tuple(treatment.opaque.values()),
        _deciding(clean, tracer.questions),
        tracer.output,
        tuple(tracer.results),
    )
    return symbolic, tracer.asks_types


def _deciding(root: nn.Module, questions: Sequence[Question]) -> tuple[Opaque, ...]:
    """The modules that decide by a size, each with its first question; a number it asks for comes first."""
    by_path: dict[str, Opaque] = {}
    for question in sorted(questions, key=lambda each: not each.fixes):
        path, kind = question.path, type(root.get_submodule(question.path)).__name__
        by_path.setdefault(path, Opaque(path, kind, question.text, question.where, fixes=question.fixes))
    return tuple(by_path.values())


def _refuse_fakes(module: fx.GraphModule) -> None:
    """Raise where the graph reads a constant that has no values: code has kept what it computed of a fake."""
    constants = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for name, value in list(vars(module).items()) + list(module.named_buffers(recurse=False)):
        if not isinstance(value, FakeTensor):
            continue
        if name in constants:
            raise ValueError("it computes a constant of values that only a real input has")
        delattr(module, name)


def _drop_assertions(graph: fx.Graph) -> None:
    """Erase recorded checks: the converted model would have to merge whole maps to ask for their shapes."""
    for assertion in ASSERTIONS:
        for node in graph.find_nodes(op="call_function", target=assertion):
            graph.erase_node(node)

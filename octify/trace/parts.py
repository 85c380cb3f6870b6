"""A model whose own ``forward`` cannot be traced, in parts.

Going down from the root, a submodule that can be traced becomes a part; one that cannot is gone into. The
inputs of the parts are those of their calls in one run of the model. Their graphs stand side by side in one
graph, so that planning, rewriting and reporting see a single one; ``assemble`` puts what became of them back
into the model, whose own code stays as it is.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from octify.compat import ConvNd, tree_unflatten
from octify.errors import TraceError
from octify.nn.guard import holds
from octify.trace.arguments import Arguments
from octify.trace.calls import Call, Read, observe
from octify.trace.duplicate import duplicate
from octify.trace.facts import Facts, InputSpec, MeasureError, measure
from octify.trace.keywords import with_any_names
from octify.trace.leaves import is_kept_whole
from octify.trace.model import Opaque, Part, Parts, Traced
from octify.trace.modes import set_modes
from octify.trace.tracer import Symbolic, symbolic_trace


@dataclass(frozen=True)
class PartCandidate:
    """A part before its graph stands among the others; no graph of its own where it is ``alone``."""

    path: str
    arguments: Arguments
    calls: Mapping[tuple[InputSpec, ...], int]
    symbolic: Symbolic | None


def in_parts(
    model: nn.Module, inputs: Sequence[Tensor], failure: TraceError, *, training: bool
) -> Traced | None:
    """Trace the parts of ``model`` (octify's own copy); None when there is none.

    ``failure`` says why it is not traced as a whole. Raises TraceError when there is none because the
    model stops on the inputs.
    """
    seen = observe(model, inputs)
    candidates = list(Search(model, seen.calls, seen.reads).below(""))
    if not any(part.symbolic is not None for part in candidates):
        if seen.stopped is None:
            return None
        raise TraceError(
            failure.what,
            where=failure.where,
            why=f"{failure.why}; run in search of parts that can be, it stopped: {seen.stopped}",
            hint=failure.hint,
        )
    reason = f"cannot be traced: {failure.why}"
    parts = Parts(model, (), Opaque("", type(model).__name__, reason, failure.where), seen.stopped, seen.macs)
    return together(parts, candidates, inputs, training=training)


def together(
    parts: Parts, candidates: Sequence[PartCandidate], inputs: Sequence[Tensor], *, training: bool
) -> Traced:
    """Graph of the candidates in ``parts``, which has no members; its ``rest_macs`` are of the whole run."""
    module, parts = _side_by_side(parts, candidates)
    facts = measure_parts(parts, module)
    counted = sum(fact.macs for fact in facts.values())
    return Traced(
        module,
        tuple(InputSpec.of(t) for t in inputs),
        facts,
        tuple(
            leaf for part in candidates if part.symbolic for leaf in _rooted(part.path, part.symbolic.opaque)
        ),
        training,
        dict(parts.shell.named_modules(remove_duplicate=False)),
        tuple(
            leaf
            for part in candidates
            if part.symbolic
            for leaf in _rooted(part.path, part.symbolic.fixed_sizes)
        ),
        replace(parts, rest_macs=max(0, parts.rest_macs - counted)),
    )


def share_in_parts(traced: Traced) -> float:
    """Share of the MACs that are in parts where there may be an octave map: between two convolutions."""
    assert traced.parts is not None
    macs = sum(fact.macs for fact in traced.facts.values())
    lonely = 0
    for part, each in zip(traced.parts.members, _slices(traced.parts, traced.module.graph), strict=True):
        called = [node for node in each.nodes if node.op == "call_module"]
        convs = [n for n in called if isinstance(traced.module.get_submodule(str(n.target)), ConvNd)]
        if part.alone or len(convs) < 2:
            lonely += sum(traced.facts[node.name].macs for node in (called if part.alone else convs))
    return (macs - lonely) / max(1, macs + traced.parts.rest_macs)


def _rooted(path: str, leaves: Sequence[Opaque]) -> list[Opaque]:
    return [replace(leaf, path=".".join(filter(None, (path, leaf.path)))) for leaf in leaves]


class Search:
    """Finds the largest traceable submodules that multiply."""

    def __init__(self, model: nn.Module, calls: Sequence[Call], reads: Sequence[Read] = ()) -> None:
        self._model = model
        self._calls = calls
        self._reads = reads
        self._by_path: dict[str, list[Call]] = {}
        for call in calls:
            self._by_path.setdefault(call.path, []).append(call)
        self._paths = {id(module): path for path, module in model.named_modules()}

    def below(self, path: str) -> Iterator[PartCandidate]:
        """The parts among the children of the module at ``path`` and theirs."""
        for child in self._model.get_submodule(path).children():
            own = self._paths[id(child)]
            parent = own.rpartition(".")[0]
            if parent == path:  # a shared module is looked at once, at its first place
                yield from self._at(own, child)

    def _at(self, path: str, module: nn.Module) -> Iterator[PartCandidate]:
        calls = self._by_path.get(path, [])
        if calls and not any(call.macs for call in calls):
            return
        part = self._part(path, module, calls) if calls else None
        if part is not None:
            yield part
        elif not is_kept_whole(module):
            yield from self.below(path)

    def _part(self, path: str, module: nn.Module, calls: Sequence[Call]) -> PartCandidate | None:
        call_arguments = [call.arguments for call in calls if call.arguments is not None]
        if len(call_arguments) < len(calls):
            return None
        largest = max(call_arguments, key=lambda arguments: sum(_size(spec) for spec in arguments.inputs))
        sizes = Counter(arguments.inputs for arguments in call_arguments)
        if is_kept_whole(module):
            return PartCandidate(path, largest, sizes, None)
        one_form = all(arguments.form == largest.form for arguments in call_arguments)
        if not one_form or self._is_entered_elsewhere(path, module):
            return None
        try:
            symbolic = symbolic_trace(module, largest, flat=True)
            for specs in sizes:  # at one of them the graph may stop: its code decides otherwise there
                measure(symbolic.module, [spec.example() for spec in specs])
        except (TraceError, MeasureError):
            return None
        return PartCandidate(path, largest, sizes, symbolic)

    def _is_entered_elsewhere(self, path: str, module: nn.Module) -> bool:
        """Return whether code outside the module calls or reads something inside it, which must then stay."""
        inside = {self._paths[id(m)] for m in module.modules()}
        calls = any(c.path in inside - {path} and path not in c.within for c in self._calls)
        return calls or any(read.path in inside and path not in read.within for read in self._reads)


def _size(spec: InputSpec) -> int:
    size = 1
    for n in spec.shape:
        size *= n
    return size


def _side_by_side(parts: Parts, candidates: Sequence[PartCandidate]) -> tuple[fx.GraphModule, Parts]:
    """One graph of all parts: their placeholders, and one tuple of results for each."""
    shell = parts.shell
    paths = {id(module): path for path, module in shell.named_modules()}
    graph = with_any_names(fx.Graph())
    members, results = [], []
    for part in candidates:
        if part.symbolic is None:
            placeholders = tuple(_named(graph.placeholder(name)) for name in part.arguments.names)
            results.append((graph.call_module(part.path, placeholders),))
            members.append(Part(part.path, part.arguments, None, part.calls, {}, alone=True))
            continue
        inside: dict[str, str] = {}
        copies: dict[fx.Node, fx.Node] = {}
        for node in part.symbolic.module.graph.nodes:
            if node.op == "output":
                results.append(fx.map_arg(node.args[0], copies.__getitem__))
                continue
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.op == "placeholder":
                _named(copies[node])
            elif node.op in ("call_module", "get_attr"):
                own = str(node.target)
                target = _path_in_model(shell, part, own, paths)
                inside[target] = own
                copies[node].target = target
        assert part.symbolic.output is not None
        members.append(Part(part.path, part.arguments, part.symbolic.output, part.calls, inside))
    graph.output(tuple(results))
    module = fx.GraphModule(shell, graph, class_name=type(shell).__name__)
    module.graph.lint()
    return module, replace(parts, members=tuple(members))


def _named(placeholder: fx.Node) -> fx.Node:
    """``placeholder`` with a name that no other part's has."""
    placeholder.target = placeholder.name
    return placeholder


def _path_in_model(shell: nn.Module, part: PartCandidate, own: str, paths: Mapping[int, str]) -> str:
    """The path in the model of what a part's graph calls ``own``: one path for a module, whoever uses it."""
    assert part.symbolic is not None
    holder_path, _, name = own.rpartition(".")
    rooted = f"{part.path}.{own}"
    try:
        holder = shell.get_submodule(rooted.rpartition(".")[0])
    except AttributeError:
        holder = None
    held = getattr(holder, name, None)
    if isinstance(held, nn.Module) and id(held) in paths:
        return paths[id(held)]
    if holder is not None and not hasattr(holder, name):
        # A constant that tracing made: it goes where the part's graph looks for it.
        value = getattr(part.symbolic.module.get_submodule(holder_path), name)
        holder.register_buffer(name, value)
    return rooted


# The graph of all parts, and of what became of it. ----------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    """One part's nodes in the graph of all, in order, and its results."""

    nodes: tuple[fx.Node, ...]
    results: Any


def _slices(parts: Parts, graph: fx.Graph) -> list[_Slice]:
    """For every part its placeholders and all that its results depend on."""
    (output,) = graph.find_nodes(op="output")
    placeholders = iter(graph.find_nodes(op="placeholder"))
    slices = []
    for part, results in zip(parts.members, output.args[0], strict=True):
        ancestors = {next(placeholders) for _ in part.arguments.inputs}
        ancestors.update(_checks(graph, ancestors))
        fx.map_arg(results, ancestors.add)
        for node in reversed(graph.nodes):
            if node in ancestors:
                ancestors.update(node.all_input_nodes)
        slices.append(_Slice(tuple(node for node in graph.nodes if node in ancestors), results))
    return slices


def _checks(graph: fx.Graph, placeholders: set[fx.Node]) -> set[fx.Node]:
    """The checks of sizes among what is computed from ``placeholders``: no result depends on them."""
    computed = set(placeholders)
    for node in graph.nodes:
        if not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
    return {node for node in computed if node.op == "call_function" and node.target is holds}


def measure_nodes(traced: Traced, module: fx.GraphModule) -> Mapping[str, Facts]:
    """Facts of ``module``, made from the traced graph, as ``traced.facts`` are those of the graph itself."""
    if traced.parts is None:
        return measure(module, [spec.example() for spec in traced.inputs])
    return measure_parts(traced.parts, module)


def measure_parts(parts: Parts, module: fx.GraphModule) -> dict[str, Facts]:
    """Facts of all nodes: shapes at the largest inputs, MACs and bytes of all calls of a run together."""
    sizes = [[part.arguments.inputs, *(set(part.calls) - {part.arguments.inputs})] for part in parts.members]
    owner = {node.name: i for i, each in enumerate(_slices(parts, module.graph)) for node in each.nodes}
    totals: dict[str, Facts] = {}
    for turn in range(max(len(each) for each in sizes)):
        # Every part at its next size; one that has no more is run again, and not counted.
        inputs = [each[turn] if turn < len(each) else each[0] for each in sizes]
        measured = measure(module, [spec.example() for specs in inputs for spec in specs])
        counts = [
            part.calls[specs] if turn < len(each) else 0
            for part, specs, each in zip(parts.members, inputs, sizes, strict=True)
        ]
        for name, fact in measured.items():
            count = counts[owner[name]] if name in owner else 0
            earlier = totals.get(name, Facts(fact.shape, 0, 0))
            totals[name] = replace(
                earlier,
                macs=earlier.macs + count * fact.macs,
                new_bytes=earlier.new_bytes + count * fact.new_bytes,
            )
    return totals


def assemble(traced: Traced, module: fx.GraphModule, converted: frozenset[str]) -> nn.Module:
    """The model with ``module``, the rewritten graph of its parts, in their places.

    Every submodule keeps its class, its attributes and its path: a rewritten leaf stands where the original
    stood, and a part's ``forward`` is its new graph.

    Parameters
    ----------
    converted:
        Paths of the convolutions that were rewritten. A part without any stays as it is.
    """
    parts = traced.parts
    assert parts is not None
    shell = parts.shell
    by_path = dict(shell.named_modules(remove_duplicate=False))
    active = [
        (part, each)
        for part, each in zip(parts.members, _slices(parts, module.graph), strict=True)
        if not converted.isdisjoint(part.inside)
    ]
    # What a deep copy finds in its memo it does not copy.
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*shell.parameters(), *shell.buffers())}
    for _, each in active:
        for node in each.nodes:
            if node.op == "call_module" and str(node.target) in by_path:
                memo[id(by_path[str(node.target)])] = module.get_submodule(str(node.target))
    model: nn.Module = duplicate(shell, memo)
    for part, each in active:
        _install(model.get_submodule(part.path), part, each, module)
    return set_modes(model, traced.modes)


def _install(host: nn.Module, part: Part, own: _Slice, module: fx.GraphModule) -> None:
    """Make ``own`` the forward of ``host``, which becomes an instance of a subclass of its class."""
    graph = with_any_names(fx.Graph())
    copies: dict[fx.Node, fx.Node] = {}
    for node in own.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            if target not in part.inside:
                _add(host, target, attrgetter(target)(module))
            copies[node].target = part.inside.get(target, target)
    graph.output(fx.map_arg(own.results, copies.__getitem__))
    run = type(fx.GraphModule(host, graph)).forward
    original, form = type(host), part.output
    assert form is not None

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        results = run(self, *part.arguments.tensors(self, args, kwargs))
        return tree_unflatten(list(results), form)

    host.__dict__.pop("forward", None)
    members = {"forward": forward, "__module__": original.__module__, "__doc__": original.__doc__}
    host.__class__ = type(original.__name__, (original,), members)


def _add(host: nn.Module, name: str, value: Any) -> None:
    """A split, merge or pooling layer of the rewriter's, or a table of indices."""
    if isinstance(value, nn.Module):
        host.add_module(name, value)
    else:
        host.register_buffer(name, value)

"""Build a report from the results of tracing, planning and rewriting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from octify.compat import ConvNd, ConvTransposeNd
from octify.ops.conv import is_depthwise
from octify.passes.rewrite import Rewritten
from octify.plan import ConvPlan, Plan
from octify.report.alone import low_alone
from octify.report.computed import computed_weights, tied_weights
from octify.report.graph import graph_of
from octify.report.report import Report
from octify.report.rows import BoundaryRow, LayerRow, Left, Totals
from octify.report.same_padding import same_padding
from octify.trace import Facts, Opaque, Traced
from octify.trace.cost import Cost, LayerCost, cost, place_of
from octify.trace.function_layers import CalledAsFunction
from octify.trace.parts import measure_nodes

UNCALIBRATED = (
    "the converted model is not calibrated: a trained network loses accuracy, the more the larger alpha is. "
    "Measure it on your data, and fine-tune before use"
)
_LITTLE = 0.25  # share of the saving that the paper's formula promises
_NO_COST = LayerCost()


@dataclass(frozen=True)
class _Sides:
    before: Cost
    after: Cost
    plan: Plan | None


def build_report(traced: Traced, plan: Plan, rewritten: Rewritten, after: Mapping[str, Facts]) -> Report:
    """Build the report of a conversion; ``after`` are the facts of the rewritten module."""
    sides = _Sides(cost(traced.module, traced.facts), cost(rewritten.module, after), plan)
    boundaries = [b for each in _all(rewritten) for b in each.boundaries if not b.vector]
    kinds = [b.kind for b in boundaries]
    left = _left_dense(traced, plan, rewritten)
    converted = sum(conv.converted for conv in plan.convs)
    totals = _totals(
        traced, sides, kinds.count("split"), kinds.count("merge"), converted + len(left), converted
    )
    warnings = [UNCALIBRATED] if converted else []
    warnings += _inner_warnings(traced, plan)
    warnings += [
        *_gain_warnings(totals, plan.alpha),
        *_tracing_warnings(traced),
        *computed_weights(traced, plan),
        *tied_weights(traced, plan),
        *low_alone(traced, rewritten),
        *same_padding(rewritten),
    ]
    return Report(
        type(traced.module).__name__,
        plan.alpha,
        plan.rules,
        plan.kernels,
        tuple(spec.shape for spec in traced.inputs),
        totals,
        _rows_with_inner(traced, sides, rewritten),
        tuple(left),
        tuple(BoundaryRow(b.kind, b.after, b.before, b.reason) for b in boundaries),
        tuple(warnings),
        graph=graph_of(traced, rewritten),
    )


def _all(rewritten: Rewritten) -> Iterator[Rewritten]:
    """``rewritten``, and what is inside its opaque modules."""
    yield rewritten
    if rewritten.inner is not None:
        yield from _all(rewritten.inner)


def _inner_warnings(traced: Traced, plan: Plan) -> list[str]:
    """Calibration needs the inputs of what it fits, which the code around inner parts does not show."""
    paths = [conv.path for conv in plan.convs if conv.converted and traced.is_elsewhere(conv.path)]
    if not paths:
        return []
    return [
        "convolutions inside modules that cannot be traced keep the weights that the mathematics gives them, "
        f"with calibration or without: {', '.join(paths)}"
    ]


def _gain_warnings(totals: Totals, alpha: float) -> list[str]:
    """Warn when a conversion saves far less than octave convolutions throughout would (Chen et al., 3.3)."""
    promised = 0.75 * alpha * (2 - alpha)
    saved = 1 - totals.macs_after / max(totals.macs_before, 1)
    if not totals.converted or saved >= _LITTLE * promised:
        return []
    return [
        f"little to gain: {saved:.1%} of the MACs are saved, of {promised:.0%} that octave convolutions "
        "throughout would save; what was left, and the boundaries, say why"
    ]


def profile_report(traced: Traced) -> Report:
    """Build the report of a model's costs as it is: before and after are the same."""
    costs = cost(traced.module, traced.facts)
    sides = _Sides(costs, costs, None)
    count = len(_convolutions(traced))
    return Report(
        type(traced.module).__name__,
        None,
        None,
        None,
        tuple(spec.shape for spec in traced.inputs),
        _totals(traced, sides, 0, 0, count, 0),
        _rows(traced, sides),
        (),
        (),
        tuple(_tracing_warnings(traced)),
    )


def _tracing_warnings(traced: Traced) -> list[str]:
    """Warnings about parts that were not traced, or not for all sizes."""
    warnings = list(traced.remarks)
    if traced.parts is not None:
        failure = traced.parts.failure
        names = ", ".join(part.path for part in traced.parts.members if not part.alone)
        warnings.append(
            f"{failure.kind} {failure.reason}{_at(failure)}; these parts of it were traced one by one, and "
            f"the code between them is run as it is: {names}"
        )
        if traced.parts.stopped:
            warnings.append(
                "the run that looked for the parts' inputs stopped early, and what it did not reach is run "
                f"as it is: {traced.parts.stopped}"
            )
    warnings += [
        f"{leaf.path} ({leaf.kind}) could not be traced and is run as it is: {leaf.reason}{_at(leaf)}"
        + _parts_in(traced, leaf)
        for leaf in traced.opaque
    ]
    return warnings + _deciding(traced.fixed_sizes)


def _parts_in(traced: Traced, leaf: Opaque) -> str:
    if traced.inner is None or traced.inner.parts is None:
        return ""
    paths = [part.path for part in traced.inner.parts.members if part.path.startswith(f"{leaf.path}.")]
    return f"; these parts of it were traced one by one: {', '.join(paths)}" if paths else ""


def _deciding(leaves: Sequence[Opaque]) -> list[str]:
    """One sentence for every source line that decides by a size, whichever modules run it."""
    by_line: dict[tuple[str, str | None], list[Opaque]] = {}
    for leaf in leaves:
        by_line.setdefault((leaf.reason, leaf.where), []).append(leaf)
    return [
        f"{first.path or 'the model'} ({first.kind}){f' and {len(rest)} more' if rest else ''} decides by a "
        f"size, and is fixed to the decision for the example: `{first.reason}`{_at(first)}; where another "
        "input size decides otherwise, the converted model stops with an error"
        for first, *rest in by_line.values()
    ]


def _at(leaf: Opaque) -> str:
    return f" ({leaf.where})" if leaf.where else ""


def _totals(
    traced: Traced, sides: _Sides, splits: int, merges: int, convolutions: int, converted: int
) -> Totals:
    before, after = sides.before, sides.after
    # For a model in parts: MACs and bytes of the code between them.
    macs = traced.parts.rest_macs if traced.parts else 0
    parameters = sum(p.numel() for p in traced.whole.parameters()) - before.parameters
    return Totals(
        before.macs + macs,
        after.macs + macs,
        before.parameters + parameters,
        after.parameters + parameters,
        before.activation_bytes,
        after.activation_bytes,
        splits,
        merges,
        convolutions,
        converted,
    )


def _rows(traced: Traced, sides: _Sides) -> tuple[LayerRow, ...]:
    """One row for every place that multiplies, in order of execution."""
    rows: dict[str, LayerRow] = {}
    for node in traced.module.graph.nodes:
        place = place_of(node)
        layer = sides.before.layers[place]
        if layer.macs and place not in rows:
            rows[place] = _row(traced, node, sides)
    return (*rows.values(), *_rest(traced))


def _rows_with_inner(traced: Traced, sides: _Sides, rewritten: Rewritten) -> tuple[LayerRow, ...]:
    """The rows, with those of the graphs inside opaque modules, whose own rows are of the rest."""
    rows, inner = _rows(traced, sides), traced.inner
    if inner is None or rewritten.inner is None:
        return rows
    after = cost(rewritten.inner.module, measure_nodes(inner, rewritten.inner.module))
    own = _Sides(cost(inner.module, inner.facts), after, sides.plan)
    inside = _rows_with_inner(inner, own, rewritten.inner)
    return tuple(each for row in rows for each in (_without(row, inside), *_within(row, inside)))


def _within(row: LayerRow, rows: Sequence[LayerRow]) -> list[LayerRow]:
    return [each for each in rows if each.path.startswith(f"{row.path}.")]


def _without(row: LayerRow, rows: Sequence[LayerRow]) -> LayerRow:
    """``row``, of a whole module, less what ``rows`` say of what is inside it."""
    inside = _within(row, rows)
    return replace(
        row,
        macs_before=row.macs_before - sum(each.macs_before for each in inside),
        macs_after=row.macs_after - sum(each.macs_after for each in inside),
        parameters_before=row.parameters_before - sum(each.parameters_before for each in inside),
        parameters_after=row.parameters_after - sum(each.parameters_after for each in inside),
    )


def _rest(traced: Traced) -> list[LayerRow]:
    """MACs of functions that untraceable code calls, as one row."""
    macs = traced.parts.rest_macs if traced.parts else 0
    name = "(code between the parts)"
    row = LayerRow(name, "functions", (), (), 0, 0, (), 0.0, 0.0, None, macs, macs, 0, 0, 0, 0)
    return [row] if macs else []


def _row(traced: Traced, node: fx.Node, sides: _Sides) -> LayerRow:
    place = place_of(node)
    module = traced.submodule(node)
    planned = None if sides.plan is None else sides.plan.by_path.get(place)
    before, after = sides.before.layers[place], sides.after.layers.get(place, _NO_COST)
    shape = traced.shape(node) or ()
    channels_in, channels_out = _channels(module, shape)
    return LayerRow(
        place,
        "linear (1x1)" if planned and isinstance(module, nn.Linear) else _kind(module, node),
        tuple(getattr(module, "kernel_size", ())),
        tuple(getattr(module, "stride", ())) if isinstance(module, ConvNd) else (),
        channels_in,
        channels_out,
        tuple(shape[2:]) if isinstance(module, ConvNd) else (),
        planned.alpha_in if planned else 0.0,
        planned.alpha_out if planned else 0.0,
        planned.kernels if planned and planned.converted else None,
        before.macs,
        after.macs,
        before.parameters,
        after.parameters,
        before.activation_bytes,
        after.activation_bytes,
        planned.exchange if planned else "full",
    )


def _channels(module: nn.Module | None, shape: tuple[int, ...]) -> tuple[int, int]:
    if isinstance(module, ConvNd):
        return module.in_channels, module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return 0, shape[1] if len(shape) > 1 else 0


def _kind(module: nn.Module | None, node: fx.Node) -> str:
    if isinstance(module, ConvTransposeNd):
        return "transposed"
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "depthwise" if is_depthwise(module) else "grouped" if module.groups > 1 else "dense"
    if isinstance(module, nn.Linear):
        return "linear"
    if module is not None:
        return type(module).__name__
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))


_FUNCTIONAL = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def _left_dense(traced: Traced, plan: Plan, rewritten: Rewritten) -> list[Left]:
    """Every convolution that stays dense on both sides: planned, hidden, unused or functional."""
    left = []
    linear = [path for path in plan.by_path if isinstance(traced._modules.get(path), nn.Linear)]
    for path in (*_convolutions(traced), *linear):
        planned = plan.by_path.get(path)
        if planned is None:
            left.append(Left(path, _unplanned_reason(path, traced)))
        elif not planned.converted:
            left.append(Left(path, _reason(planned, plan)))
    for node in rewritten.module.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name in _FUNCTIONAL and place_of(node) == node.name:
            refusal = rewritten.resolved.layout.refusals.get(node.name)
            left.append(Left(node.name, refusal.reason if refusal else "its input is dense"))
    return left


def _convolutions(traced: Traced) -> list[str]:
    """Paths of all convolutions of the model, each once: where the graph calls it, if it does.

    One that only lends its weight to a function is that function's layer.
    """
    nodes = traced.module.graph.find_nodes(op="call_module")
    layers = {str(node.target): traced.submodule(node) for node in nodes}
    functions = [layer for layer in layers.values() if isinstance(layer, CalledAsFunction)]
    lent = {id(parameter) for layer in functions for parameter in layer.parameters()}
    paths: dict[int, str] = {}
    for path, module in traced._modules.items():
        if path not in layers and any(id(p) in lent for p in module.parameters(recurse=False)):
            continue
        if isinstance(module, ConvNd) and (path in layers or id(module) not in paths):
            paths[id(module)] = path
    return list(paths.values())


def _unplanned_reason(path: str, traced: Traced) -> str:
    for leaf in traced.opaque:
        if path.startswith(f"{leaf.path}."):
            return f"it is inside {leaf.path}, which {leaf.reason}{_at(leaf)}"
    if traced.parts and traced.parts.stopped:
        return f"it was not called before the model stopped: {traced.parts.stopped}"
    return "it is not called in eval mode"


def _reason(planned: ConvPlan, plan: Plan) -> str:
    if planned.reason:
        return planned.reason
    return "alpha is 0" if plan.alpha == 0 else "the plan leaves it"

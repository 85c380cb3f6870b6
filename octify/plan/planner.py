"""Decides, for every coupled set, whether and how far it becomes octave.

1. The rules give every convolution its policy; a convolution whose output must stay dense is
   taken out of its coupled set (a split layer stands where the graph still ties them).
2. Every remaining set takes the alpha of its convolutions, and its low channels.
3. A set that saves fewer MACs than its split and merge layers cost becomes dense, the worst
   first, since each decision changes what its neighbours save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from torch.nn.modules.conv import _ConvNd

from octify.coupling import couple
from octify.errors import OctifyError, PlanError, RuleError
from octify.kernels import Scheme
from octify.layout import DENSE, ConvNode, Ids, Layout, Mask, mask_of
from octify.plan.balance import dense_where_it_costs
from octify.plan.choose import cells, low_count, lowest
from octify.plan.convs import Conv, collect, facts_for_rules
from octify.plan.model import ConvPlan, Plan
from octify.ruleset import Rule, RuleSet, unmatched
from octify.trace import Traced


@dataclass(frozen=True)
class _Policies:
    """What the rules said: paths with a dense output, paths left alone (both with reasons), the rest."""

    dense: Mapping[str, str]
    left: Mapping[str, str]
    rules: Mapping[str, Rule]


def make_plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float = 0.5,
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
) -> Plan:
    """Plan the conversion of ``traced``.

    Raises OctifyError for an alpha outside [0, 1], RuleError when a path pattern of the rules
    or of ``exclude`` matches no convolution.
    """
    if not 0 <= alpha <= 1:
        raise OctifyError(
            f"alpha is {alpha}",
            why="it is the share of low-frequency channels",
            hint="--alpha 0.5 (from 0 to 1)",
        )
    structure = couple(traced)
    convs = collect(traced, structure)
    _check_patterns(traced, rules, exclude)
    policies = _policies(convs, structure, rules, alpha, exclude)
    unbalanced: dict[str, str] = {}
    while True:
        dense = {**policies.dense, **unbalanced}
        layout = couple(traced, frozenset(dense), policies.left)
        current = collect(traced, layout)
        low = _choose(traced, current, layout, policies, rules, alpha)
        low = dense_where_it_costs(traced, layout, current, low, rules.settings.boundary_macs_per_element)
        uneven = _uneven_outputs(current, low)
        if not uneven:
            return _plan(traced, rules, alpha, kernels, layout, low, {**policies.left, **dense}, policies)
        unbalanced |= dict.fromkeys(uneven, "its groups cannot have the same number of low output channels")


def _check_patterns(traced: Traced, rules: RuleSet, exclude: Sequence[str]) -> None:
    paths = [
        path
        for path, module in traced.module.named_modules(remove_duplicate=False)
        if hasattr(module, "kernel_size")
    ]
    lost = unmatched(exclude, paths)
    if lost:
        raise RuleError(
            f"--exclude matches no convolution: {', '.join(lost)}",
            why=f"the model's convolutions are {_some(paths)}",
            hint="give a module path, or a pattern such as 'layer1.*'",
        )
    lost = unmatched(rules.path_patterns, paths)
    if lost:
        raise RuleError(
            f"the rules match no convolution: {', '.join(lost)}",
            where=str(rules.path),
            why=f"the model's convolutions are {_some(paths)}",
        )


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:8])
    return f"{shown} and {len(paths) - 8} more" if len(paths) > 8 else shown


def _policies(
    convs: Sequence[Conv], structure: Layout, rules: RuleSet, alpha: float, exclude: Sequence[str]
) -> _Policies:
    facts = facts_for_rules(list(convs), structure)
    dense: dict[str, str] = {}
    left: dict[str, str] = {}
    found: dict[str, Rule] = {}
    for conv in convs:
        pattern = next((p for p in exclude if fnmatchcase(conv.path, p)), None)
        if pattern is not None:
            left[conv.path] = f"excluded by {pattern}"
            continue
        # One sample per channel: nothing to halve, but it follows the values it is tied to.
        rule = rules.find(facts[conv.path], only_paths=conv.vector)
        if rule is None:
            continue
        found[conv.path] = rule
        if rule.leave:
            left[conv.path] = rule.reason or "a rule leaves it"
        elif (rule.output == "dense" or rule.alpha == 0) and not conv.depthwise:
            dense[conv.path] = rule.reason or "a rule keeps its output dense"
    return _Policies(dense, left, found)


def _choose(
    traced: Traced, convs: Sequence[Conv], layout: Layout, policies: _Policies, rules: RuleSet, alpha: float
) -> Mask:
    """Low channel classes when every set takes its alpha."""
    wanted: dict[int, float] = {}
    for conv in convs:
        if conv.vector or conv.depthwise:
            continue
        rule = policies.rules.get(conv.path)
        asked = alpha if rule is None or rule.alpha is None else rule.alpha
        for s in {s for call in conv.calls for s in layout.sets(call.ids_out)}:
            wanted[s] = min(asked, wanted.get(s, asked))
    low = np.zeros(layout.classes, dtype=bool)
    whole: dict[int, list[Ids]] = {}
    for s, parts in enumerate(cells(layout)):
        even = len({len(cell) for cell in parts}) == 1
        for cell in parts:
            count = low_count(len(cell), len(parts) if even else 1, wanted.get(s, 0.0), rules.settings)
            low[lowest(cell, count)] = True
            if count == len(cell):
                whole.setdefault(s, []).append(cell)
    if whole:
        for s in _sets_with_uncertain_size(traced, layout) & whole.keys():
            low[[int(cell[0]) for cell in whole[s]]] = False
    return low


def _sets_with_uncertain_size(traced: Traced, layout: Layout) -> set[int]:
    """Sets with a value whose size a low branch alone could not tell: odd sizes, and 2 (or 1?)."""
    found: set[int] = set()
    for name, ids in layout.ids.items():
        shape = traced.facts[name].shape
        if shape is not None and any(n == 2 or (n % 2 and n > 1) for n in shape[2:]):
            found.update(layout.sets(ids))
    return found


def _even(call_ids: Ids, groups: int, low: Mask) -> bool:
    mask = mask_of(call_ids, low)
    return mask is None or len(set(mask.reshape(groups, -1).sum(axis=1))) == 1


def _uneven_outputs(convs: Sequence[Conv], low: Mask) -> list[str]:
    grouped = [c for c in convs if c.module.groups > 1 and not c.depthwise]
    return [c.path for c in grouped if not all(_even(call.ids_out, c.module.groups, low) for call in c.calls)]


def _plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float,
    kernels: Scheme,
    layout: Layout,
    low: Mask,
    reasons: Mapping[str, str],
    policies: _Policies,
) -> Plan:
    entries: dict[str, ConvPlan] = {}
    calls = {conv.path: conv for conv in layout.convs}
    for node in traced.module.graph.nodes:
        module, path = traced.submodule(node), str(node.target)
        if path in entries or not isinstance(module, _ConvNd):
            continue
        call = calls.get(path)
        refusal = layout.refusals.get(node.name)
        rule = policies.rules.get(path)
        scheme = rule.kernels if rule is not None and rule.kernels is not None else kernels
        if call is None:
            reason = reasons.get(path) or (
                refusal.reason if refusal else f"no octave rule for {type(module).__name__}"
            )
            entries[path] = ConvPlan(path, module.in_channels, module.out_channels, (), (), scheme, reason)
        else:
            entries[path] = _entry(call, module, scheme, low, reasons)
    plan = Plan(alpha, rules.name, kernels, traced.inputs, tuple(entries.values()))
    if len(plan.by_path) != len(plan.convs):
        raise PlanError("two convolutions have one path")
    return plan


def _entry(
    call: ConvNode, module: _ConvNd, scheme: Scheme, low: Mask, reasons: Mapping[str, str]
) -> ConvPlan:
    groups = module.groups
    depthwise = groups == len(call.ids_in)
    low_in = _indices(mask_of(call.ids_in, low))
    low_out = _indices(mask_of(call.ids_out, low))
    reason = None
    if groups > 1 and not depthwise and low_in and not _even(call.ids_in, groups, low):
        low_in, reason = (), "its groups cannot have the same number of low input channels"
    if not low_out:
        reason = reasons.get(call.path) or reason or _dense_reason(call)
    elif not low_in:
        reason = reason or ("its input is dense" if (call.ids_in == DENSE).all() else None)
    return ConvPlan(call.path, len(call.ids_in), len(call.ids_out), low_in, low_out, scheme, reason)


def _dense_reason(call: ConvNode) -> str:
    if (call.ids_out == DENSE).all():
        return "its input is dense and it computes each channel from itself"
    return (
        "octave channels here would save fewer MACs than their boundaries cost, or alpha rounds to no channel"
    )


def _indices(mask: Mask | None) -> tuple[int, ...]:
    return () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))

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
from torch import nn
from torch.nn.modules.conv import _ConvNd

from octify.coupling import couple
from octify.errors import OctifyError, PlanError, RuleError
from octify.kernels import Scheme
from octify.layout import DENSE, ConvNode, Layout, Mask, mask_of
from octify.nn.groups import is_scattered
from octify.ops.conv import ONE_SAMPLE, is_depthwise
from octify.ops.linear import channels_of
from octify.plan.balance import dense_where_it_costs
from octify.plan.choose import Choice, choose
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
    _check_patterns(traced, convs, rules, exclude)
    policies = _policies(convs, structure, rules, alpha, exclude)
    unbalanced: dict[str, str] = {}
    while True:
        dense = {**policies.dense, **unbalanced}
        layout = couple(traced, frozenset(dense), policies.left)
        current = collect(traced, layout)
        wanted = _wanted(current, layout, policies, alpha)
        choice = choose(traced, layout, wanted, rules.settings)
        choice = dense_where_it_costs(
            traced, layout, current, choice, rules.settings.boundary_macs_per_element
        )
        scattered = _scattered_outputs(current, choice.low)
        if not scattered:
            return _plan(traced, rules, alpha, kernels, layout, choice, {**policies.left, **dense}, policies)
        unbalanced |= dict.fromkeys(scattered, "its low output channels are too scattered over its groups")


def _check_patterns(traced: Traced, convs: Sequence[Conv], rules: RuleSet, exclude: Sequence[str]) -> None:
    linear = {conv.path for conv in convs}
    paths = [
        path
        for path, module in traced.module.named_modules(remove_duplicate=False)
        if hasattr(module, "kernel_size") or path in linear
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


def _wanted(convs: Sequence[Conv], layout: Layout, policies: _Policies, alpha: float) -> dict[int, float]:
    """Alpha of every coupled set: the smallest that the rules give to a convolution that writes it."""
    wanted: dict[int, float] = {}
    for conv in convs:
        if conv.vector or conv.depthwise:
            continue
        rule = policies.rules.get(conv.path)
        asked = alpha if rule is None or rule.alpha is None else rule.alpha
        for s in {s for call in conv.calls for s in layout.sets(call.ids_out)}:
            wanted[s] = min(asked, wanted.get(s, asked))
    return wanted


def _scattered_outputs(convs: Sequence[Conv], low: Mask) -> list[str]:
    """Convolutions whose low outputs alone are too scattered over their groups, whatever their input."""
    return [
        conv.path
        for conv in convs
        if not conv.depthwise
        and any(is_scattered(conv.module, (), _indices(mask_of(call.ids_out, low))) for call in conv.calls)
    ]


def _plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float,
    kernels: Scheme,
    layout: Layout,
    choice: Choice,
    reasons: Mapping[str, str],
    policies: _Policies,
) -> Plan:
    entries: dict[str, ConvPlan] = {}
    calls = {conv.path: conv for conv in layout.convs}
    for node in traced.module.graph.nodes:
        module, path = traced.submodule(node), str(node.target)
        channels = channels_of(module)
        call = calls.get(path)
        refusal = layout.refusals.get(node.name)
        # Most linear layers are none of a map's channels: those have no say here.
        if path in entries or channels is None or (isinstance(module, nn.Linear) and not (call or refusal)):
            continue
        rule = policies.rules.get(path)
        scheme = rule.kernels if rule is not None and rule.kernels is not None else kernels
        if call is None:
            reason = reasons.get(path) or (
                refusal.reason if refusal else f"no octave rule for {type(module).__name__}"
            )
            entries[path] = ConvPlan(path, *channels, (), (), scheme, reason)
        else:
            entries[path] = _entry(call, module, scheme, layout, choice, reasons)
    plan = Plan(alpha, rules.name, kernels, traced.inputs, tuple(entries.values()))
    if len(plan.by_path) != len(plan.convs):
        raise PlanError("two convolutions have one path")
    return plan


def _entry(
    call: ConvNode,
    module: nn.Module | None,
    scheme: Scheme,
    layout: Layout,
    choice: Choice,
    reasons: Mapping[str, str],
) -> ConvPlan:
    low_in = _indices(mask_of(call.ids_in, choice.low))
    low_out = _indices(mask_of(call.ids_out, choice.low))
    reason = None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and is_scattered(module, low_in, low_out):
        low_in, reason = (), "its low input channels are too scattered over its groups"
    if not low_out:
        reason = reasons.get(call.path) or reason or _dense_reason(call, module, layout, choice)
    elif not low_in:
        reason = reason or ("its input is dense" if (call.ids_in == DENSE).all() else None)
    return ConvPlan(call.path, len(call.ids_in), len(call.ids_out), low_in, low_out, scheme, reason)


def _dense_reason(call: ConvNode, module: nn.Module | None, layout: Layout, choice: Choice) -> str:
    sets = layout.sets(call.ids_out)
    if not sets and not (isinstance(module, _ConvNd) and is_depthwise(module)):
        return ONE_SAMPLE
    if not sets:
        return "its input is dense and it computes each channel from itself"
    found = [choice.reasons[s] for s in sets if s in choice.reasons]
    # A set of unequal parts may have low channels only in parts that this convolution does not write.
    return found[0] if found else "alpha rounds to no low channel in its parts of the channels it shares"


def _indices(mask: Mask | None) -> tuple[int, ...]:
    return () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))

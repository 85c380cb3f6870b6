"""The planner: decides for every coupled set whether it becomes octave, and at which alpha.

1. The rules give every convolution its policy; a convolution whose output must stay dense is
   taken out of its coupled set (a split layer stands where the graph still ties them).
2. Every remaining set takes the alpha of its convolutions, and its low channels.
3. A set that saves less (MACs, or what ``Costs`` counts) than its split and merge layers cost
   becomes dense, the worst first, since each decision changes what its neighbours save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from octify.checks.alpha import check_alpha
from octify.compat import ConvNd
from octify.errors import PlanError
from octify.kernels.taps import Exchange, Scheme
from octify.layout.channels import DENSE, ConvNode, Layout, Mask, indices, mask_of
from octify.nn.exchange import exchange_of
from octify.nn.groups import is_scattered
from octify.ops.conv import ONE_SAMPLE, is_depthwise
from octify.ops.linear import channels_of
from octify.passes.resolve import Planned, agreeing, resolve
from octify.plan import ConvPlan, Plan
from octify.planning.balance import dense_where_it_costs
from octify.planning.choose import Choice, choose
from octify.planning.convs import Conv
from octify.planning.costs import Costs, MacCosts
from octify.planning.meeting import APART, Link, never_meeting
from octify.planning.policies import Policies, links, policies_of
from octify.planning.ruleset import RuleSet
from octify.trace import Traced


def make_plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float = 0.5,
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
    alphas: Mapping[str, float] | None = None,
    costs: Costs | None = None,
) -> Plan:
    """Return the plan of ``planned``, which takes the same arguments."""
    return planned(traced, rules, alpha, kernels, exclude, alphas, costs).plan


def planned(
    traced: Traced,
    rules: RuleSet,
    alpha: float = 0.5,
    kernels: Scheme = "paper",
    exclude: Sequence[str] = (),
    alphas: Mapping[str, float] | None = None,
    costs: Costs | None = None,
    policies: Policies | None = None,
) -> Planned:
    """Plan the conversion of ``traced``.

    Parameters
    ----------
    alphas:
        Alphas that replace ``alpha`` for the coupled sets that the convolutions at these paths write. A rule
        that states an alpha takes precedence.
    costs:
        Costs that octave channels must lower to be worth it; by default MACs.
    policies:
        ``policies_of`` the same model, rules and ``exclude``, for making many plans: they couple once.

    Raises OctifyError for an alpha outside [0, 1], RuleError when a path pattern of the rules
    or of ``exclude`` matches no convolution.
    """
    check_alpha(alpha)
    result = _planned(traced, rules, alpha, kernels, exclude, alphas, costs, policies)
    if traced.inner is None:
        return result
    inside = planned(traced.inner, rules, alpha, kernels, exclude, alphas, costs).plan
    return replace(result, plan=replace(result.plan, convs=(*result.plan.convs, *inside.convs)))


def _planned(
    traced: Traced,
    rules: RuleSet,
    alpha: float,
    kernels: Scheme,
    exclude: Sequence[str],
    alphas: Mapping[str, float] | None,
    costs: Costs | None,
    policies: Policies | None,
) -> Planned:
    """Plan the conversion of one graph, as ``planned`` does."""
    counted = costs or MacCosts(rules.settings.boundary_macs_per_element)
    policies = policies or policies_of(traced, rules, exclude)
    unbalanced: dict[str, str] = {}
    while True:
        dense = {**policies.dense, **unbalanced}
        layout = policies.layout(traced, dense)
        current = policies.convs(traced, dense)
        by_set = _set_alphas(current, layout, policies, alpha, alphas or {})
        choice = choose(traced, layout, by_set, rules.settings)
        choice = dense_where_it_costs(traced, layout, current, choice, counted)
        scattered = _scattered_outputs(current, choice.low)
        if not scattered:
            reasons = {**policies.left, **dense}
            plan = _plan(traced, rules, alpha, kernels, layout, choice, reasons, policies)
            plan = _meeting(plan, current, links(current, layout, choice.low))
            try:
                return Planned(plan, agreeing(plan, layout, choice.low) or resolve(traced, plan))
            except PlanError as error:
                policies = _without(policies, plan, error)
                continue
        unbalanced |= dict.fromkeys(scattered, "its low output channels are too scattered over its groups")


def _without(policies: Policies, plan: Plan, error: PlanError) -> Policies:
    """Policies that leave out a convolution which cannot be what ``plan`` makes it, as ``error`` says.

    Convolutions that end without low channels are no longer in the coupling, and what was possible beside
    them may not be: a module called at two places reads two layouts then.
    """
    path = error.where
    if path is None or path not in plan.by_path or path in policies.left:
        raise error
    return policies.leaving(path, error.why or "it cannot have low channels beside its neighbours")


def _set_alphas(
    convs: Sequence[Conv], layout: Layout, policies: Policies, alpha: float, alphas: Mapping[str, float]
) -> dict[int, float]:
    """Alpha of every coupled set: the smallest among the convolutions that write it."""
    by_set: dict[int, float] = {}
    for conv in convs:
        if conv.vector or conv.depthwise:
            continue
        rule = policies.rules.get(conv.path)
        stated = None if rule is None else rule.alpha
        requested = alphas.get(conv.path, alpha) if stated is None else stated
        for s in {s for call in conv.calls for s in layout.sets(call.ids_out)}:
            by_set[s] = min(requested, by_set.get(s, requested))
    return by_set


def _scattered_outputs(convs: Sequence[Conv], low: Mask) -> list[str]:
    """Convolutions whose low outputs are too scattered over their groups, whatever their input."""
    return [
        conv.path
        for conv in convs
        if not conv.depthwise
        and any(is_scattered(conv.module, (), indices(mask_of(call.ids_out, low))) for call in conv.calls)
    ]


def _plan(
    traced: Traced,
    rules: RuleSet,
    alpha: float,
    kernels: Scheme,
    layout: Layout,
    choice: Choice,
    reasons: Mapping[str, str],
    policies: Policies,
) -> Plan:
    entries: dict[str, ConvPlan] = {}
    calls = {conv.path: conv for conv in layout.convs}
    for node in traced.module.graph.nodes:
        module, path = traced.submodule(node), str(node.target)
        channels = channels_of(module)
        call = calls.get(path)
        refusal = layout.refusals.get(node.name)
        # Most linear layers do not act on a map's channels: those are skipped here.
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
            exchange = policies.exchange.get(path, "full")
            entries[path] = _entry(call, module, scheme, exchange, layout, choice, reasons)
    plan = Plan(
        alpha,
        rules.name,
        kernels,
        traced.inputs,
        tuple(entries.values()),
        leaves=traced.leaves,
        inside=traced.inside,
    )
    if len(plan.by_path) != len(plan.convs):
        raise PlanError("two convolutions have one path")
    return plan


def _meeting(plan: Plan, convs: Sequence[Conv], joined: Sequence[Link]) -> Plan:
    """``plan`` with the exchange of convolutions without which high and low channels would never meet.

    Those of the policies, and what comes to them under the alphas of this plan: a convolution that
    exchanges may have become dense.
    """
    limited = {conv.path for conv in plan.convs if conv.exchange != "full"}
    apart = limited - {conv.path for conv in convs if conv.exchange == "full"}
    apart -= never_meeting([replace(link, apart=link.path in apart) for link in joined])
    return replace(
        plan,
        convs=tuple(
            replace(conv, exchange="full", reason=conv.reason or APART)
            if conv.path in limited - apart
            else conv
            for conv in plan.convs
        ),
    )


def _entry(
    call: ConvNode,
    module: nn.Module | None,
    scheme: Scheme,
    exchange: Exchange,
    layout: Layout,
    choice: Choice,
    reasons: Mapping[str, str],
) -> ConvPlan:
    low_in = indices(mask_of(call.ids_in, choice.low))
    low_out = indices(mask_of(call.ids_out, choice.low))
    reason = None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and is_scattered(module, low_in, low_out):
        low_in, reason = (), "its low input channels are too scattered over its groups"
    if not low_out:
        reason = reasons.get(call.path) or reason or _dense_reason(call, module, layout, choice)
    elif not low_in:
        reason = reason or ("its input is dense" if (call.ids_in == DENSE).all() else None)
    exchange = exchange_of(module, exchange, low_in, low_out)
    return ConvPlan(call.path, len(call.ids_in), len(call.ids_out), low_in, low_out, scheme, reason, exchange)


def _dense_reason(call: ConvNode, module: nn.Module | None, layout: Layout, choice: Choice) -> str:
    sets = layout.sets(call.ids_out)
    if not sets and not (isinstance(module, ConvNd) and is_depthwise(module)):
        return ONE_SAMPLE
    if not sets:
        return "its input is dense and it computes each channel from itself"
    reasons_of_sets = [choice.reasons[s] for s in sets if s in choice.reasons]
    # A set of unequal parts may have low channels only in parts that this convolution does not write.
    return (
        reasons_of_sets[0]
        if reasons_of_sets
        else "alpha rounds to no low channel in its parts of the channels it shares"
    )

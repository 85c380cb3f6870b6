"""Policy of every convolution under the rules and ``--exclude``, before any alpha is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from octify.checks.words import some
from octify.errors import RuleError
from octify.kernels.taps import Exchange
from octify.layout.channels import DENSE, Layout, Mask
from octify.passes.couple import couple
from octify.planning.convs import Conv, collect, facts_for_rules
from octify.planning.meeting import Link, never_meeting
from octify.planning.ruleset import Rule, RuleSet, unmatched
from octify.trace import Traced


@dataclass(frozen=True)
class Policies:
    """Policies by path: convolutions with a dense output, and those left alone, both with reasons.

    exchange:
        Exchange mode per convolution (module path to mode); those of vectors always exchange.
    structure:
        The coupling of the whole graph, before any policy.
    """

    dense: Mapping[str, str]
    left: Mapping[str, str]
    rules: Mapping[str, Rule]
    exchange: Mapping[str, Exchange]
    structure: Layout
    _layouts: dict[frozenset[str], tuple[Layout, Sequence[Conv]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def layout(self, traced: Traced, dense: Mapping[str, str]) -> Layout:
        """Coupling when the outputs of ``dense`` stay dense and ``left`` is not touched.

        Worked out once for every ``dense``; ``traced`` is the model that the policies belong to.
        """
        return self._coupled(traced, dense)[0]

    def convs(self, traced: Traced, dense: Mapping[str, str]) -> list[Conv]:
        """The convolutions of ``layout``, with what is asked of their paths."""
        return list(self._coupled(traced, dense)[1])

    def _coupled(self, traced: Traced, dense: Mapping[str, str]) -> tuple[Layout, Sequence[Conv]]:
        key = frozenset(dense)
        if key not in self._layouts:
            alone = not dense and not self.left
            layout = self.structure if alone else couple(traced, key, self.left)
            self._layouts[key] = layout, self._meeting(self.applied(collect(traced, layout)), layout)
        return self._layouts[key]

    def _meeting(self, convs: Sequence[Conv], layout: Layout) -> list[Conv]:
        """``convs``, with their exchange where high and low channels would never meet without it."""
        alone = never_meeting(links(convs, layout, np.ones(layout.classes, dtype=bool)))
        return [replace(conv, exchange="full") if conv.path in alone else conv for conv in convs]

    def leaving(self, path: str, reason: str) -> Policies:
        """Copy that leaves the convolution at ``path`` alone as well."""
        return replace(self, left={**self.left, path: reason}, _layouts={})

    def applied(self, convs: Sequence[Conv]) -> list[Conv]:
        """Copy of ``convs`` with the exchange modes of their paths."""
        return [replace(conv, exchange=self.exchange.get(conv.path, "full")) for conv in convs]


def links(convs: Sequence[Conv], layout: Layout, low: Mask) -> list[Link]:
    """Links that convolutions of maps make between coupled sets when ``low`` channels (by class) are low."""

    def sets(conv: Conv, side: str) -> frozenset[int]:
        ids = np.concatenate([getattr(call, side) for call in conv.calls])
        present = ids[ids != DENSE]
        return frozenset(layout.sets(present[low[present]]))

    return [
        Link(conv.path, into, out, bool(into and out) and conv.exchange != "full" and conv.pointwise)
        for conv in convs
        if not conv.depthwise and not conv.vector
        for into, out in ((sets(conv, "ids_in"), sets(conv, "ids_out")),)
    ]


def policies_of(traced: Traced, rules: RuleSet, exclude: Sequence[str] = ()) -> Policies:
    """Determine the policy of every convolution of ``traced``.

    Raises RuleError when a path pattern of the rules or of ``exclude`` matches no convolution.
    """
    structure = couple(traced)
    convs = collect(traced, structure)
    _check_patterns(traced, convs, rules, exclude)
    return _decide(convs, structure, rules, exclude)


def _check_patterns(traced: Traced, convs: Sequence[Conv], rules: RuleSet, exclude: Sequence[str]) -> None:
    linear = {conv.path for conv in convs}
    paths = [
        path
        for path, module in traced.whole.named_modules(remove_duplicate=False)
        if hasattr(module, "kernel_size") or path in linear
    ]
    lost = unmatched(exclude, paths)
    if lost:
        raise RuleError(
            f"--exclude matches no convolution: {', '.join(lost)}",
            why=f"the model's convolutions are {some(paths, 8)}",
            hint="give a module path, or a pattern such as 'layer1.*'",
        )
    lost = unmatched(rules.path_patterns, paths)
    if lost:
        raise RuleError(
            f"the rules match no convolution: {', '.join(lost)}",
            where=str(rules.path),
            why=f"the model's convolutions are {some(paths, 8)}",
        )


def _decide(convs: Sequence[Conv], structure: Layout, rules: RuleSet, exclude: Sequence[str]) -> Policies:
    facts = facts_for_rules(list(convs), structure)
    dense: dict[str, str] = {}
    left: dict[str, str] = {}
    octave: dict[str, Rule] = {}
    for conv in convs:
        pattern = next((p for p in exclude if fnmatchcase(conv.path, p)), None)
        if pattern is not None:
            left[conv.path] = f"excluded by {pattern}"
            continue
        # One sample per channel: nothing to halve, but it follows the values it is tied to.
        rule = rules.find(facts[conv.path], only_paths=conv.vector)
        if rule is None:
            continue
        octave[conv.path] = rule
        if rule.leave:
            left[conv.path] = rule.reason or "a rule leaves it"
        elif (rule.output == "dense" or rule.alpha == 0) and not conv.depthwise:
            dense[conv.path] = rule.reason or "a rule keeps its output dense"
    exchange = {
        conv.path: _exchange(octave.get(conv.path), rules)
        for conv in convs
        if not conv.vector and conv.path not in left
    }
    return Policies(dense, left, octave, exchange, structure)


def _exchange(rule: Rule | None, rules: RuleSet) -> Exchange:
    return rules.settings.exchange if rule is None or rule.exchange is None else rule.exchange

"""Candidate plans, with the MACs of their graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from octify.allocate.budget import Budget, budget
from octify.allocate.macs import MacCounts
from octify.allocate.path import ErrorCurve, Step, last_steps, levels_after, path
from octify.errors import CheckFailed
from octify.kernels.taps import Scheme
from octify.passes.resolve import Planned
from octify.passes.rewrite import Rewritten
from octify.plan import Plan
from octify.planning.planner import planned
from octify.planning.policies import Policies, policies_of
from octify.planning.ruleset import RuleSet
from octify.trace import Traced
from octify.trace.cost import cost
from octify.trace.parts import measure_nodes

_GRID = 256  # uniform alphas are multiples of 1 / _GRID
_COARSE_GRID = 64  # likewise, of stops that are tried one by one
_ENDINGS = 4  # last steps whose MACs are counted
_STOP = 0.01  # share of the original's MACs between two stops


class Plans:
    """Plans under one policy, at uniform alphas or along the path of error curves.

    Ratios are MACs over those of the original.
    """

    def __init__(
        self,
        traced: Traced,
        rules: RuleSet,
        kernels: Scheme,
        exclude: Sequence[str],
        policies: Policies | None = None,
    ) -> None:
        self.traced, self.rules, self.kernels, self.exclude = traced, rules, kernels, exclude
        # Worked out once for all plans, and the coupling with them.
        self.policies = policies or policies_of(traced, rules, exclude)
        self._ratios: dict[tuple[object, ...], float] = {}

    def without_boundary_costs(self) -> Plans:
        """The same plans where split and merge layers are free."""
        settings = self.rules.settings.model_copy(update={"boundary_macs_per_element": 0.0})
        rules = replace(self.rules, settings=settings)
        return Plans(self.traced, rules, self.kernels, self.exclude, self.policies)

    @cached_property
    def choices(self) -> Budget:
        """Search space that the rules leave."""
        return budget(self.traced, self.rules, self.exclude, self.policies)

    @property
    def dense_macs(self) -> int:
        """MACs of the original."""
        return self._counts.dense

    @cached_property
    def _counts(self) -> MacCounts:
        return MacCounts(self.traced)

    def uniform(self, alpha: float) -> Plan:
        """The plan in which every set that the rules leave open has ``alpha``."""
        return self.with_alphas({}, alpha)

    def with_alphas(self, alphas: Mapping[str, float], alpha: float = 0.0) -> Plan:
        """The plan with ``alphas``, by path of a writer; ``alpha`` for the other coupled sets."""
        candidate = planned(
            self.traced, self.rules, alpha, self.kernels, self.exclude, alphas, policies=self.policies
        )
        self._counted(candidate)
        return candidate.plan

    def at_levels(self, levels: Mapping[int, int], alpha: float) -> Plan:
        """The plan with these levels of the free sets; ``alpha`` is noted as its uniform equivalent."""
        alphas = {
            path: free.levels[levels.get(free.number, 0)].alpha
            for free in self.choices.free
            for path in free.paths
        }
        return self.with_alphas(alphas, alpha)

    def ratio(self, plan: Plan) -> float:
        """MACs of the model under ``plan`` over those of the original, without rewriting it."""
        return self._counted(Planned(plan))

    def _counted(self, candidate: Planned) -> float:
        key = _entries(candidate.plan)
        if key not in self._ratios:
            macs = self._counts.of(candidate, self.policies.structure.convs)
            self._ratios[key] = macs / self.dense_macs if self.dense_macs else 1.0
        return self._ratios[key]

    def true_ratio(self, rewritten: Rewritten) -> float:
        """MACs of a converted model over those of the original, counted on its graph, as a report counts."""
        macs = cost(rewritten.module, measure_nodes(self.traced, rewritten.module)).macs
        return macs / self.dense_macs if self.dense_macs else 1.0

    def uniform_below(self, ratio: float) -> Plan | None:
        """The uniform plan of smallest alpha with at most ``ratio`` of the MACs."""
        count = first(_GRID, lambda n: self.ratio(self.uniform(n / _GRID)) <= ratio)
        return None if count is None else self.uniform(count / _GRID)

    def uniform_stops(self, bound: float) -> list[Plan]:
        """Uniform plans of falling cost, about a percent of the MACs apart, from the ratio ``bound`` down."""
        chosen: list[Plan] = []
        limit = min(bound, 1 - _STOP / 2)
        for count in range(1, _COARSE_GRID + 1):
            plan = self.uniform(count / _COARSE_GRID)
            if self.ratio(plan) <= limit:
                chosen.append(plan)
                limit = self.ratio(plan) - _STOP
        return chosen

    def nothing_converted(self) -> CheckFailed:
        """Error of a search that has no plan to try."""
        return CheckFailed(
            "nothing in this model can be converted under these rules",
            why=f"the rules {self.rules.name} leave no channels low",
            hint="--rules everywhere converts all it can; octify inspect MODEL shows every layer",
        )


def _entries(plan: Plan) -> tuple[object, ...]:
    return tuple((conv.low_in, conv.low_out) for conv in plan.convs)


@dataclass(frozen=True)
class AlphaPath:
    """Path from dense to lowest, one coupled set at a time."""

    plans: Plans
    curves: Mapping[int, ErrorCurve]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, plans: Plans, curves: Mapping[int, ErrorCurve]) -> AlphaPath:
        """Build the path of least error for the MACs saved."""
        return cls(plans, curves, path(curves, plans.choices.model, plans.choices.fixed))

    def plan(self, count: int, alpha: float = 0.0) -> Plan:
        """Plan after ``count`` steps."""
        return self.plans.at_levels(levels_after(self.steps[:count], self.curves), alpha)

    def below(self, ratio: float, alpha: float) -> Plan | None:
        """Plan with at most ``ratio`` of the MACs; None if the path does not reach it."""
        count = first(len(self.steps), lambda n: self.plans.ratio(self.plan(n)) <= ratio)
        if not count:
            return None if count is None else self.plan(0, alpha)
        choices, taken = self.plans.choices, self.steps[: count - 1]
        missing = (self.plans.ratio(self.plan(count - 1)) - ratio) * self.plans.dense_macs
        for s, level in last_steps(taken, self.curves, choices.model, choices.fixed, missing)[:_ENDINGS]:
            candidate = self.plans.at_levels(levels_after(taken, self.curves) | {s: level}, alpha)
            if self.plans.ratio(candidate) <= ratio:
                return candidate
        return self.plan(count, alpha)

    def stops(self) -> list[Plan]:
        """Plans about one percent of the MACs apart, from the first that saves any."""
        counts: list[int] = []
        saved = 0.0
        for count, step in enumerate(self.steps, start=1):
            saved += step.saved
            if saved >= _STOP * self.plans.dense_macs * (len(counts) + 1) or count == len(self.steps):
                counts.append(count)
        plans = [self.plan(count) for count in counts]
        start = first(len(plans), lambda n: n == len(plans) or self.plans.ratio(plans[n]) < 1)
        return plans[start:]


def first(last: int, holds: Callable[[int], bool]) -> int | None:
    """Smallest of 0, ..., ``last`` for which the monotone condition ``holds``; None if there is none."""
    if not holds(last):
        return None
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high

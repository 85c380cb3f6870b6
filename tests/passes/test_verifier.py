"""The verifier of rewritten graphs: it accepts those that octify makes, and sees what is broken in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import octify
from octify.errors import CheckFailed
from octify.layout.channels import Resolved
from octify.nn.functional import upsample
from octify.ops.emitter import Value
from octify.passes.resolve import resolve
from octify.passes.rewrite import rewrite
from octify.passes.verifier import VERIFY, Violation, violations
from octify.plan import Plan
from octify.trace import Traced, trace


class Net(nn.Module):
    """A residual, a concatenation, pooling at an odd size, channels that are moved about, and two results."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.last = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.relu(self.first(x))
        b = F.relu(self.second(a) + a)
        c = F.max_pool2d(self.third(torch.cat([a, b], 1)), 3, 2, padding=1)
        c = c.permute(0, 2, 3, 1).mul(2).permute(0, 3, 1, 2)
        return self.last(c), c.mean((2, 3))


Case = tuple[Traced, Resolved, fx.GraphModule, dict[str, Value]]


@pytest.fixture(scope="module")
def planned() -> tuple[Traced, Plan]:
    traced = trace(Net().eval(), torch.randn(2, 3, 17, 15))
    return traced, octify.convert(Net().eval(), torch.randn(2, 3, 17, 15), rules="everywhere").plan


@pytest.fixture
def case(planned: tuple[Traced, Plan]) -> Case:
    """The parts of a rewritten graph, to be broken."""
    return case_of(planned)


def case_of(planned: tuple[Traced, Plan]) -> Case:
    traced, plan = planned
    rewritten = rewrite(traced, plan)
    return traced, resolve(traced, plan), rewritten.module, dict(rewritten.values)


def found(case: Case) -> list[Violation]:
    traced, resolved, module, values = case
    module.recompile()
    return violations(traced, resolved, module, values)


def octaves(values: dict[str, Value]) -> list[str]:
    """Names of the values that have both branches."""
    return [name for name, value in values.items() if value.high is not None and value.low is not None]


def test_what_octify_makes_is_whole(case: Case) -> None:
    assert found(case) == [] and len(octaves(case[3])) > 5


BREAKS: dict[str, Callable[[Tensor], Tensor]] = {
    "a channel lost": lambda x: x[:, :-1],
    "a channel twice": lambda x: torch.cat([x, x[:, :1]], 1),
    "a row lost": lambda x: x[:, :, :-1],
    "a column lost": lambda x: x[..., :-1],
    "upsampled": lambda x: upsample(x, [2 * n for n in x.shape[2:]]),
    "pooled": lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    "the batch halved": lambda x: x[:1],
}


@pytest.mark.parametrize("kind", BREAKS)
@given(data=st.data())
def test_any_branch_of_another_shape_is_seen(planned: tuple[Traced, Plan], kind: str, data: Any) -> None:
    """Wherever it happens: a graph may absorb it (a mean does), or broadcast it."""
    case = case_of(planned)
    module, values = case[2:]
    name = data.draw(st.sampled_from(octaves(values)))
    branch = data.draw(st.sampled_from(["high", "low"]))
    old = getattr(values[name], branch)
    assume(old in set(module.graph.nodes))  # nobody reads it, and it was left out
    with module.graph.inserting_after(old):
        new = module.graph.call_function(BREAKS[kind], (old,))
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    for each, value in values.items():
        values[each] = value.each(lambda node: new if node is old else node)
    assert found(case)


def test_branches_in_each_others_place_are_seen(case: Case) -> None:
    for name in octaves(case[3]):
        value = case[3][name]
        broken = {**case[3], name: replace(value, high=value.low, low=value.high)}
        assert found((*case[:3], broken))


def test_another_mask_is_seen(case: Case) -> None:
    for name in octaves(case[3]):
        value = case[3][name]
        assert value.mask is not None
        moved = np.roll(value.mask, 1)
        assert not np.array_equal(moved, value.mask)
        assert found((*case[:3], {**case[3], name: replace(value, mask=moved)}))
        assert found((*case[:3], {**case[3], name: replace(value, mask=None)}))


@pytest.mark.parametrize("branch", ["high", "low"])
def test_a_missing_branch_is_seen(case: Case, branch: str) -> None:
    for name in octaves(case[3]):
        (violation,) = found((*case[:3], {**case[3], name: replace(case[3][name], **{branch: None})}))
        assert f"no {branch} branch" in violation.what


def test_another_result_is_seen(case: Case) -> None:
    module = case[2]
    (output,) = module.graph.find_nodes(op="output")
    with module.graph.inserting_before(output):
        cut = module.graph.call_function(torch.Tensor.narrow, (output.args[0][1], 1, 0, 3))
    output.args = ((output.args[0][0], cut),)
    (violation,) = found(case)
    assert violation.node == "output" and "(2, 3) and not (2, 16)" in violation.what
    output.args = ((output.args[0][0],),)
    assert any("returns 1 tensors and not 2" in each.what for each in found(case))


def test_a_graph_that_does_not_run_is_seen(case: Case) -> None:
    module = case[2]
    (output,) = module.graph.find_nodes(op="output")
    with module.graph.inserting_before(output):
        module.graph.call_function(torch.reshape, (output.args[0][1], (7, 7)))
    (violation,) = found(case)
    assert "does not run" in violation.what


def test_rewriting_raises_where_it_is_asked_to_verify(
    monkeypatch: pytest.MonkeyPatch, planned: tuple[Traced, Plan]
) -> None:
    from octify.ops import emitter

    honest = emitter.Emitter.value

    def swapped(self: emitter.Emitter, node: fx.Node) -> Value:
        """What an operation would see if it took high for low."""
        value = honest(self, node)
        whole = value.high is not None and value.low is not None and node.name.startswith("relu")
        return replace(value, high=value.low, low=value.high) if whole else value

    monkeypatch.setattr(emitter.Emitter, "value", swapped)
    monkeypatch.setenv(VERIFY, "0")
    rewrite(*planned)  # nobody looks
    monkeypatch.setenv(VERIFY, "1")
    with pytest.raises(CheckFailed, match="does not have the layout of its plan"):
        rewrite(*planned)

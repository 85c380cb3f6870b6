"""Trials that share the original's values give what they give alone, to the last bit."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from octify.allocate.plans import Plans
from octify.calibrate.inputs.images import Images
from octify.calibrate.options import Calibration
from octify.calibrate.prefix import prefix_values
from octify.calibrate.recipe import Calibrated, calibrate_on
from octify.calibrate.streams.execution import Stream
from octify.calibrate.streams.observe import observe
from octify.calibrate.streams.store import Store
from octify.calibrate.streams.twins import twins
from octify.passes.resolve import Planned
from octify.plan import Plan
from octify.planning.ruleset import load_rules
from octify.trace import Traced, trace
from tests.calibrate.streams.test_execution import net, smooth


class Blocks(nn.Module):
    """A stream that can be rotated, with blocks on it, between maps that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.to_stream = nn.Sequential(nn.Conv2d(16, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.wide = nn.ModuleList(nn.Conv2d(12, 20, 1) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv2d(20, 12, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.to_stream(self.stem(x))
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            y = y + narrow(F.relu(wide(y)))
        return self.head(y.mean((2, 3)))


def _blocks() -> nn.Module:
    torch.manual_seed(0)
    model = Blocks().train()
    model(smooth(32))
    return model.eval()


@functools.cache
def prepared(name: str) -> tuple[Traced, tuple[Plan, ...], Images]:
    """A model, plans in each of which one coupled set is octave, and images."""
    traced = trace(_blocks() if name == "blocks" else net(), smooth(1, 16))
    plans = Plans(traced, load_rules("everywhere"), "paper", ())
    alone = [plans.with_alphas(dict.fromkeys(free.paths, 0.5)) for free in plans.choices.free]
    # So few positions, in all maps alike, that trials make as many altered copies of the images as others do.
    fitted = tuple((part,) for part in smooth(5, 16).split(3))
    images = Images(fitted, ((smooth(4, 16, seed=1),),), ())
    return traced, tuple(plan for plan in alone if any(conv.low_out for conv in plan.convs)), images


def _calibrated(name: str, index: int, prefix: Any = None) -> Calibrated:
    traced, plans, images = prepared(name)
    options = Calibration((), "fast")
    return calibrate_on(copy.deepcopy(traced), Planned(plans[index]), images, options, prefix=prefix)


@functools.cache
def _by_itself(name: str, index: int) -> Calibrated:
    return _calibrated(name, index)


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("name", ["blocks", pytest.param("net", marks=pytest.mark.zoo)])
def test_trials_in_any_order_are_those_made_alone(name: str, forwards: bool) -> None:
    traced, plans, images = prepared(name)
    order = range(len(plans)) if forwards else reversed(range(len(plans)))
    with prefix_values(traced, images, 0) as prefix:
        for index in order:
            prefix.prepare(plans[index])
            found, wanted = _calibrated(name, index, prefix), _by_itself(name, index)
            assert found.after == wanted.after and found.plan == wanted.plan
            assert found.layers == wanted.layers
            weights = (each.rewritten.module.state_dict() for each in (found, wanted))
            assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
        crossing = {n for n in prefix.fitted.graph.nodes if prefix.crosses(n, prefix.place_of(plans[index]))}
        assert prefix.fitted.kept() == prefix.measured.kept() == crossing
    assert prefix.fitted.store.held == 0


def test_some_trial_rotates_and_the_cuts_differ() -> None:
    assert _by_itself("blocks", 1).plan.rotations
    traced, plans, images = prepared("blocks")
    with prefix_values(traced, images, 0) as prefix:
        assert len({prefix.place_of(plan) for plan in plans}) > 2


@pytest.mark.parametrize("change", ["weight", "buffer", "setting", "hook", "argument", "none"])
def test_twins_are_only_nodes_that_compute_the_same(change: str) -> None:
    traced, _, _ = prepared("net")
    module = copy.deepcopy(traced.module)
    with torch.no_grad():
        if change == "weight":
            module.get_submodule("conv1").weight[0, 0, 0, 0] += 1e-3
        elif change == "buffer":
            module.get_submodule("bn1").running_mean[0] += 1e-3
        elif change == "setting":
            module.get_submodule("conv1").padding = (0, 0)
        elif change == "hook":
            module.get_submodule("conv1").register_forward_hook(lambda *_: None)
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced.module.graph, {}))
    if change == "argument":
        node = next(n for n in graph.nodes if n.target in ("chunk", torch.chunk))
        node.kwargs = dict(node.kwargs) | {"dim": -3}
    same = {node.name for node in twins(graph, module, traced.module.graph, traced.module)}
    names = [node.name for node in traced.module.graph.nodes if node.op != "output"]
    first = {"weight": "conv1", "buffer": "bn1", "setting": "conv1", "hook": "conv1", "argument": "chunk"}
    cut = len(names) if change == "none" else names.index(first[change])
    assert same == set(names[:cut]) | {n for n in names[cut:] if _apart(traced, n, first.get(change))}


def _apart(traced: Traced, name: str, changed: str | None) -> bool:
    """Whether a node does not depend on the changed one."""
    nodes = {node.name: node for node in traced.module.graph.nodes}
    behind = {changed}
    for node in traced.module.graph.nodes:
        if any(source.name in behind for source in node.all_input_nodes):
            behind.add(node.name)
    return nodes[name].name not in behind


@settings(max_examples=8)
@given(seed=st.integers(0, 99), room=st.sampled_from([0, 100_000, 2**30]))
def test_a_stream_with_an_origin_reads_what_it_would_compute(seed: int, room: int) -> None:
    traced, _, _ = prepared("net")
    module = copy.deepcopy(traced.module)
    with torch.no_grad():
        module.get_submodule("conv2").weight.mul_(1.5)
    graph, chunks = traced.module.graph, [(part,) for part in smooth(5, 16, seed=seed).split(3)]
    generator = torch.Generator().manual_seed(seed)
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "get_attr")]
    chosen = [nodes[i] for i in sorted(torch.randperm(len(nodes), generator=generator)[:4].tolist())]
    with Store(room) as store:
        origin = Stream(graph, traced.module, chunks, store)
        shared, alone = Stream(graph, module, chunks, store, origin), Stream(graph, module, chunks, store)
        for node in chosen:
            shared.hold(node)
            alone.hold(node)
        for node in chosen:
            for one, other in zip(shared.values(node), alone.values(node), strict=True):
                same = torch.equal(one, other) if isinstance(one, Tensor) else str(one) == str(other)
                assert same
            shared.release(node)
            alone.release(node)
        shared.close()
        alone.close()
        origin.close()
        assert store.held == 0


def test_observers_run_no_more_than_they_need() -> None:
    traced, _, _ = prepared("net")
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, module in traced.module.named_modules()
        if path in ("conv1", "conv2", "gate")
    ]
    observe(traced, [(smooth(2, 16),)], {"conv1": lambda x, y: None})
    for handle in handles:
        handle.remove()
    assert ran == ["conv1"]

"""Sites of calibration: every converted convolution, at each of its calls, with what follows it.

A convolution whose weight is used at several calls is one site: its rows come from all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from octify.calibrate.fit.activation import Activation, Slopes
from octify.calibrate.fit.affine import Affine
from octify.calibrate.fit.following import Following, FollowingWalk
from octify.nn import OctaveConv
from octify.nn.channels import split_indices
from octify.nn.views import to_map
from octify.ops.base import operand
from octify.ops.padding import through_padding
from octify.passes.rewrite import Rewritten
from octify.trace import Traced


@dataclass(frozen=True)
class Use:
    """One call of a convolution.

    node, call:
        In the original's graph and in the converted one.
    source:
        The original's value that it reads, before any padding the convolution has taken over.
    repaired:
        Whether all that the call depends on is fitted before. Else its input is the original's, split.
    """

    node: fx.Node
    call: fx.Node
    source: fx.Node
    following: Following
    repaired: bool
    roles: Mapping[str, str]

    def as_map(self, node: fx.Node, value: Tensor) -> Tensor:
        """A value of the original's ``node`` as (N, C, *size)."""
        return to_map(value, self.roles[node.name])


@dataclass(frozen=True)
class Site:
    """A convolution to be fitted.

    norm:
        The original's BatchNorm behind it, or None; ``norm_high`` and ``norm_low`` are the converted ones.
    fixed:
        The affine map behind that, at every call the same, or None.
    alike:
        Whether the same follows at every call. If not, only ``norm`` is taken into account.
    activation:
        Activation that follows at every call; None if there is none, or calls differ.
    """

    path: str
    conv: OctaveConv
    low_out: tuple[int, ...]
    high_out: tuple[int, ...]
    uses: tuple[Use, ...]
    norm: nn.Module | None
    norm_high: nn.Module | None
    norm_low: nn.Module | None
    fixed: Affine | None
    alike: bool
    activation: Activation | Slopes | None

    def channels(self, branch: str) -> tuple[int, ...]:
        """The original's output channels that are in a branch."""
        return self.high_out if branch == "high" else self.low_out

    def branch_norm(self, branch: str) -> nn.Module | None:
        """The converted BatchNorm behind a branch."""
        return self.norm_high if branch == "high" else self.norm_low


def sites(
    traced: Traced, rewritten: Rewritten, order: Sequence[fx.Node]
) -> tuple[list[Site], dict[str, str]]:
    """Sites in the order of repair, and the converted convolutions that have none, with reasons."""
    calls = _calls(rewritten)
    by_path: dict[str, list[fx.Node]] = {}
    for node in traced.module.graph.nodes:
        if (path := _path(node)) in calls:
            by_path.setdefault(path, []).append(node)
    left = dict.fromkeys(calls.keys() - by_path.keys(), "it is no single operation of the original")
    context = _Context(traced, rewritten, order, [node for nodes in by_path.values() for node in nodes])
    result: list[Site] = []
    for path, nodes in by_path.items():
        if len(nodes) == len(calls[path]):  # both in order of execution
            result.append(_site(context, path, list(zip(nodes, calls[path], strict=True))))
        else:
            left[path] = "its calls are not those of the original"
    return sorted(result, key=lambda site: context.place[site.uses[0].node]), left


def _calls(rewritten: Rewritten) -> dict[str, list[fx.Node]]:
    """The calls of octave convolutions in the converted graph, by path."""
    calls: dict[str, list[fx.Node]] = {}
    for node in rewritten.module.graph.find_nodes(op="call_module"):
        if isinstance(rewritten.module.get_submodule(str(node.target)), OctaveConv):
            calls.setdefault(str(node.target), []).append(node)
    return calls


def _path(node: fx.Node) -> str:
    """Path of the converted form of ``node`` (``octify.ops.conv_function``)."""
    return str(node.target) if node.op == "call_module" else f"octave_{node.name}"


class _Context:
    """The graphs, the order of repair, and when the last converted convolution before a node is fitted."""

    def __init__(
        self, traced: Traced, rewritten: Rewritten, order: Sequence[fx.Node], convs: Sequence[fx.Node]
    ) -> None:
        self.traced, self.rewritten = traced, rewritten
        self.place = {node: i for i, node in enumerate(order)}
        layout = rewritten.resolved.layout
        self.roles = {node.name: layout.roles(node.name, traced.shape(node) or ()) for node in order}
        converted = set(convs)
        self.latest: dict[fx.Node, int] = {}
        for node in traced.module.graph.nodes:
            inputs = [self.place[n] if n in converted else self.latest[n] for n in node.all_input_nodes]
            self.latest[node] = max(inputs, default=-1)


def _site(context: _Context, path: str, pairs: Sequence[tuple[fx.Node, fx.Node]]) -> Site:
    conv: Any = context.rewritten.module.get_submodule(path)
    high, low = split_indices(conv.out_channels, conv.low_out)
    pairs = sorted(pairs, key=lambda pair: context.place[pair[0]])
    nodes = [node for node, _ in pairs]
    walk = FollowingWalk(context.traced, context.rewritten, context.place, context.place[nodes[0]])
    following = [walk.follow(node, len(nodes)) for node in nodes]
    if any(f.norm is not following[0].norm for f in following):
        following = [walk.follow(node, 0) for node in nodes]
    first = following[0]
    alike = all(_same(first, f) for f in following)
    return Site(
        path,
        conv,
        low,
        high,
        tuple(_use(context, *pair, f, walk.now) for pair, f in zip(pairs, following, strict=True)),
        first.norm,
        first.norm_high,
        first.norm_low,
        first.fixed if alike else None,
        alike,
        first.activation if alike else None,
    )


def _use(context: _Context, node: fx.Node, call: fx.Node, following: Following, now: int) -> Use:
    source = operand(node)
    if node.op == "call_module" and not isinstance(context.traced.submodule(node), nn.Linear):
        source = through_padding(context.traced, node)[0]
    return Use(node, call, source, following, context.latest[node] < now, context.roles)


def _same(a: Following, b: Following) -> bool:
    """Return whether the same operations follow two calls."""
    if a is b:
        return True
    if (a.fixed is None) != (b.fixed is None) or (a.fixed and b.fixed and not a.fixed.equals(b.fixed)):
        return False
    acts = (a.activation, b.activation)
    if isinstance(acts[0], Activation) and isinstance(acts[1], Activation):
        return bool(
            (acts[0].floor, acts[0].ceiling) == (acts[1].floor, acts[1].ceiling)
            and acts[0].results.equal(acts[1].results)
        )
    return acts[0] is acts[1] is None

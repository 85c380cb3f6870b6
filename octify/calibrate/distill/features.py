"""Features for distillation inside the networks: the inputs of converted convolutions.

A few hundred images hold few outputs but many maps. Of an octave map the high channels should be the
original's, the low ones its 2x2 means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from octify.calibrate.fit.sites import Site, Use
from octify.nn.functional import pool
from octify.passes.rewrite import Rewritten
from octify.trace.keywords import with_any_names


@dataclass(frozen=True)
class Compared:
    """Original and converted model, whose results are ``(output, maps)``, and the loss between maps.

    places:
        For each map of the original: the call that reads it, the channels of its branches, and the places
        of the branches among the converted model's maps.
    """

    teacher: fx.GraphModule
    student: fx.GraphModule
    uses: tuple[Use, ...]
    branches: tuple[tuple[tuple[Tensor, int], ...], ...]

    def loss(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Mean over the maps of squared error over variance; 0 where there is no octave map."""
        losses = [
            self._map_loss(use.as_map(use.source, value), student_maps, its)
            for use, value, its in zip(self.uses, teacher_maps, self.branches, strict=True)
        ]
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def _map_loss(
        self, teacher_map: Tensor, student_maps: Sequence[Tensor], branches: Sequence[tuple[Tensor, int]]
    ) -> Tensor:
        error = teacher_map.new_zeros(())
        for channels, place in branches:
            value = student_maps[place]
            target = teacher_map.index_select(1, channels.to(teacher_map.device))
            if value.shape[2:] != target.shape[2:]:
                target = pool(target)
            error = error + (value - target).square().mean() * len(channels)
        spread = teacher_map - teacher_map.mean((0, *range(2, teacher_map.ndim)), keepdim=True)
        return error / (spread.square().mean() * teacher_map.shape[1]).clamp_min(1e-12)


def compared(original: fx.GraphModule, rewritten: Rewritten, sites: Iterable[Site]) -> Compared:
    """Both models of a conversion, in eval mode; parameters are ``original``'s and ``rewritten``'s own."""
    uses: dict[fx.Node, Use] = {}
    for site in sites:
        for use in site.uses:
            value = rewritten.values.get(use.source.name)
            if value is not None and value.octave:
                uses.setdefault(use.source, use)
    nodes: list[fx.Node] = []
    branches = []
    for source in uses:
        value = rewritten.values[source.name]
        low = torch.as_tensor(value.mask)
        its = []
        for node, channels in ((value.high, ~low), (value.low, low)):
            if node is not None:
                its.append((channels.nonzero()[:, 0], len(nodes)))
                nodes.append(node)
        branches.append(tuple(its))
    return Compared(
        _returning(original.eval().requires_grad_(False), list(uses)),
        _returning(rewritten.module.eval(), nodes),
        tuple(uses.values()),
        tuple(branches),
    )


def _returning(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """``module``, its parameters shared, whose result is its own and the values of ``nodes``."""
    graph = with_any_names(fx.Graph())
    copies: dict[fx.Node, fx.Node] = {}
    result: Any = graph.graph_copy(module.graph, copies)
    by_name = {node.name: copied for node, copied in copies.items()}
    graph.output((result, tuple(by_name[node.name] for node in nodes)))
    return fx.GraphModule(module, graph)

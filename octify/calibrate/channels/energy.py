"""Choice of the low channels by energy: as many of every cell as in the plan, but the best ones.

``energy`` ranks a coupled channel by what is lost when it is made low: its high-frequency energy
``E ||x - Pi x||^2``, times the squared norm of the weights that read it, over the variance of
what they produce, summed over its readers. (High-frequency energy relative to the channel's own is
no better than a random choice.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from octify.calibrate.channels.choices import chosen, with_channels
from octify.calibrate.channels.convolution import channels_second
from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.execution import Stream
from octify.calibrate.streams.observe import Observer, observe
from octify.layout.channels import DENSE, ConvNode, Ids, Resolved
from octify.nn.functional import project
from octify.passes.resolve import Planned
from octify.trace import Traced


def by_energy(traced: Traced, planned: Planned, chunks: Chunks, prefix: Stream | None = None) -> Planned:
    """Plan with the channels of least weighted high-frequency energy low, as many as in ``planned``.

    ``prefix``: values of the original that are at hand (``observe``).
    """
    resolved = planned.on(traced)
    layout = resolved.layout
    lost = np.zeros(layout.classes)
    collected: dict[str, list[Tensor]] = {}

    def watch(conv: ConvNode) -> None:
        def add(x: Tensor, y: Tensor) -> None:
            x, y = channels_second(traced, conv, x, y)
            dims = [0, *range(2, x.ndim)]
            energy = (x - project(x)).square().mean(dims).double().cpu()
            spread = y.var([0, *range(2, y.ndim)], correction=0).double().cpu()
            collected.setdefault(conv.node, []).append(torch.cat([energy, spread]))

        watchers[conv.node] = add

    watchers: dict[str, Observer] = {}
    sets = _sets_with_low_channels(resolved)
    convs = [conv for conv in layout.convs if np.isin(layout.sets(conv.ids_in), sets).any()]
    for conv in convs:
        watch(conv)
    observe(traced, chunks, watchers, prefix)
    for conv in convs:
        mean = torch.stack(collected[conv.node]).mean(0)
        energy, spread = mean[: len(conv.ids_in)], mean[len(conv.ids_in) :]
        cost = energy * squared_norms(traced, conv, spread)
        present = conv.ids_in != DENSE
        np.add.at(lost, conv.ids_in[present], cost.numpy()[present])
    return with_channels(planned.plan, layout, chosen(layout, resolved.low, lost))


def _sets_with_low_channels(resolved: Resolved) -> Ids:
    """The coupled sets in which there is something to choose."""
    return np.unique(resolved.layout.set_of[resolved.low])


def squared_norms(traced: Traced, conv: ConvNode, spread: Tensor) -> Tensor:
    """Squared norm of the weights that read each input channel, outputs in units of their deviation, (I,)."""
    module = traced.module.get_submodule(conv.path)
    weight = module.get_parameter("weight").detach().double().cpu()
    weight = weight[..., None] if weight.ndim == 2 else weight.flatten(2)
    transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    groups = int(getattr(module, "groups", 1))
    if transposed:  # (I, O / groups, taps): outputs of the group that each input belongs to
        spread = spread.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)
        return (weight.square().sum(2) / spread.clamp_min(1e-12)).sum(1)
    per_out = weight.square().sum(2) / spread.clamp_min(1e-12)[:, None]
    return per_out.reshape(groups, -1, per_out.shape[1]).sum(1).flatten()

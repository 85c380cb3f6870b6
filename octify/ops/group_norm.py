"""GroupNorm and EvoNorm-S: statistics of groups of channels over all positions.

They are numbers per sample, so that normalising commutes with pooling and with upsampling; a low
sample counts in them as often as the positions it stands for (``octify.nn.group_norm``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from octify.nn.evo_norm import OctaveEvoNorm, Statistic
from octify.nn.group_norm import OctaveGroupNorm
from octify.nn.norm import OctaveChannelwise
from octify.ops.base import Op
from octify.ops.emitter import Emitter, Value
from octify.ops.norm import emit_module, layout_norm


def _emit_group_norm(emitter: Emitter, node: fx.Node) -> Value:
    return emit_module(emitter, node, lambda module, _, low: OctaveGroupNorm(module, low))


def _emit_evo(emitter: Emitter, node: fx.Node, statistic: Statistic, always: bool) -> Value:
    def make(module: nn.Module, channels: int, low: Sequence[int]) -> nn.Module:
        if always or module.apply_act:
            return OctaveEvoNorm(module, low, statistic)
        return OctaveChannelwise.from_module(module, channels, low)  # without activation it does not divide

    return emit_module(emitter, node, make)


def _evo(name: str, statistic: Statistic) -> tuple[Op, ...]:
    """The rule of an EvoNorm-S and of its variant "a", which divides even without an activation."""

    def emit(emitter: Emitter, node: fx.Node) -> Value:
        return _emit_evo(emitter, node, statistic, always=False)

    def emit_a(emitter: Emitter, node: fx.Node) -> Value:
        return _emit_evo(emitter, node, statistic, always=True)

    path = f"timm.layers.evo_norm.EvoNorm2d{name}"
    return (
        Op(f"EvoNorm-{name}", layout_norm, emit, modules=(path,)),
        Op(f"EvoNorm-{name}a", layout_norm, emit_a, modules=(f"{path}a",)),
    )


OPS = (
    Op(
        "GroupNorm",
        layout_norm,
        _emit_group_norm,
        modules=(
            nn.GroupNorm,
            "timm.layers.norm.GroupNorm",
            "timm.layers.norm.GroupNorm1",
            "timm.layers.norm_act.GroupNormAct",
            "timm.layers.norm_act.GroupNorm1Act",
        ),
    ),
    *_evo("S0", "deviation"),
    *_evo("S1", "deviation"),
    *_evo("S2", "root mean square"),
)

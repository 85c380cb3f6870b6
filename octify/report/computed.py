"""Weights that a model computes anew in every forward, and that a conversion writes down as they are now.

Pruning multiplies a weight by its mask, weight and spectral norm compute it from other parameters, by hooks
or as parametrizations. A converted layer has plain weights: nothing is lost for inference, but in training
the mask no longer holds, and the norm no longer applies. The report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from octify.compat import forward_pre_hooks
from octify.plan import Plan
from octify.trace import Traced

_MOST = 4


def computed_weights(traced: Traced, plan: Plan) -> list[str]:
    """One sentence for every kind of computed weights among the converted layers of ``plan``."""
    kinds: dict[str, list[str]] = {}
    for conv in plan.convs:
        if conv.converted:
            for kind in dict.fromkeys(_kinds(traced.whole.get_submodule(conv.path))):
                kinds.setdefault(kind, []).append(conv.path)
    return [_sentence(kind, paths) for kind, paths in kinds.items()]


def _kinds(layer: nn.Module) -> Iterator[str]:
    for hook in forward_pre_hooks(layer).values():
        if isinstance(hook, BasePruningMethod):
            yield _PRUNED
        elif isinstance(hook, WeightNorm):
            yield "weight norm"
        elif isinstance(hook, SpectralNorm):
            yield "spectral norm"
    if parametrize.is_parametrized(layer):
        lists: Any = layer.parametrizations
        for steps in lists.values():
            yield from (_name(step) for step in steps)


_PRUNED = "pruning"
_NAMES = {"_WeightNorm": "weight norm", "_SpectralNorm": "spectral norm", "_Orthogonal": "orthogonality"}


def _name(step: nn.Module) -> str:
    kind = type(step).__name__
    return _NAMES.get(kind, f"the parametrization {kind}")


def _sentence(kind: str, paths: Sequence[str]) -> str:
    where = ", ".join(paths[:_MOST]) + (f" and {len(paths) - _MOST} more" if len(paths) > _MOST else "")
    if kind == _PRUNED:
        return (
            f"the masks of pruned layers are folded into their octave weights ({where}): where a mask is 0, "
            "training or calibration may give other values"
        )
    return f"{kind} is baked into the weights as they are now ({where}): in training it is not applied anew"

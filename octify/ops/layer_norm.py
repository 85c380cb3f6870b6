"""Norms over the channels of every position of a map (N, C, H, W).

Their statistics are maps of one channel, the only ones that are pooled and upsampled
(``octify.nn.layer_norm``).
"""

from __future__ import annotations

from torch import fx

from octify.emitter import Emitter, Value
from octify.nn.layer_norm import (
    Normalise,
    OctaveLayerNorm,
    layer_normalise,
    rms_normalise,
    simple_normalise,
)
from octify.ops.base import Op
from octify.ops.norm import emit_module, layout_norm


def _op(name: str, normalise: Normalise, *modules: str) -> Op:
    def emit(emitter: Emitter, node: fx.Node) -> Value:
        scheme = emitter.plan.kernels
        return emit_module(
            emitter,
            node,
            lambda module, channels, low: OctaveLayerNorm(
                module, low, channels, normalise=normalise, scheme=scheme
            ),
        )

    return Op(name, layout_norm, emit, modules=modules)


OPS = (
    _op(
        "LayerNorm of maps",
        layer_normalise,
        "timm.layers.norm.LayerNorm2d",
        "timm.layers.norm.LayerNorm2dFp32",
        "timm.layers.norm.LayerNormExp2d",
        "timm.layers.norm_act.LayerNormAct2d",
        "timm.layers.norm_act.LayerNormAct2dFp32",
        "torchvision.models.convnext.LayerNorm2d",
    ),
    _op(
        "RMSNorm of maps",
        rms_normalise,
        "timm.layers.norm.RmsNorm2d",
        "timm.layers.norm.RmsNorm2dFp32",
        "timm.layers.norm_act.RmsNormAct2d",
        "timm.layers.norm_act.RmsNormAct2dFp32",
    ),
    _op(
        "SimpleNorm of maps",
        simple_normalise,
        "timm.layers.norm.SimpleNorm2d",
        "timm.layers.norm.SimpleNorm2dFp32",
    ),
)

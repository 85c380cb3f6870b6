"""Layers and functions of timm and torchvision that octify knows, by name: neither need be installed.

A name is ``package.module.Class``; ``package.module.*`` stands for every class of a module.
"""

from __future__ import annotations

from collections.abc import Iterable

# What names of torchvision's layers begin with, in files of other packages.
TORCHVISION_OPS = "torchvision.ops."

# Kept whole by tracing, though they derive from nn.Module alone: norms, pools and attention, and what is
# random in training; each is one octave rule, or one plain refusal.
KEPT = (
    "timm.layers.blur_pool.BlurPool2d",
    "timm.layers.drop.DropBlock2d",
    "timm.layers.drop.DropPath",
    "timm.layers.evo_norm.*",
    "timm.layers.filter_response_norm.*",
    "timm.layers.global_context.GlobalContext",
    "timm.layers.grn.GlobalResponseNorm",
    "timm.layers.inplace_abn.InplaceAbn",
    "timm.layers.median_pool.MedianPool2d",
    "timm.layers.norm.*",
    "timm.layers.norm_act.*",
    "timm.layers.pool2d_same.*",
    "torchvision.models.convnext.LayerNorm2d",
    "torchvision.ops.drop_block.*",
    "torchvision.ops.misc.FrozenBatchNorm2d",
    "torchvision.ops.stochastic_depth.StochasticDepth",
)

# The identity in eval mode.
DROPOUTS = (
    "timm.layers.drop.DropBlock2d",
    "timm.layers.drop.DropPath",
    "torchvision.ops.drop_block.DropBlock2d",
    "torchvision.ops.drop_block.DropBlock3d",
    "torchvision.ops.stochastic_depth.StochasticDepth",
)
DROPOUT_FUNCTIONS = (
    "torchvision.ops.drop_block.drop_block2d",
    "torchvision.ops.drop_block.drop_block3d",
    "torchvision.ops.stochastic_depth.stochastic_depth",
)

# BatchNorms: with fixed statistics, and with an activation and dropout inside (both are elementwise).
FROZEN_BATCH_NORMS = (
    "timm.layers.norm_act.FrozenBatchNormAct2d",
    "torchvision.ops.misc.FrozenBatchNorm2d",
)
ACTIVATED_BATCH_NORMS = ("timm.layers.norm_act.BatchNormAct2d", "timm.layers.norm_act.SyncBatchNormAct")
BATCH_NORMS = (
    *FROZEN_BATCH_NORMS,
    *ACTIVATED_BATCH_NORMS,
    "timm.layers.split_batchnorm.SplitBatchNorm2d",
)

# Norms over groups of channels, over positions, and over channels: of maps, and of the last dimension.
GROUP_NORMS = (
    "timm.layers.norm.GroupNorm",
    "timm.layers.norm.GroupNorm1",
    "timm.layers.norm_act.GroupNormAct",
    "timm.layers.norm_act.GroupNorm1Act",
)
POSITION_NORMS = (
    "timm.layers.evo_norm.EvoNorm2dB0",
    "timm.layers.evo_norm.EvoNorm2dB1",
    "timm.layers.evo_norm.EvoNorm2dB2",
    "timm.layers.filter_response_norm.FilterResponseNormAct2d",
    "timm.layers.filter_response_norm.FilterResponseNormTlu2d",
)
EVO_NORM = "timm.layers.evo_norm.EvoNorm2d"  # S0, S0a, S1, ... follow
LAYER_NORMS_OF_MAPS = (
    "timm.layers.norm.LayerNorm2d",
    "timm.layers.norm.LayerNorm2dFp32",
    "timm.layers.norm.LayerNormExp2d",
    "timm.layers.norm_act.LayerNormAct2d",
    "timm.layers.norm_act.LayerNormAct2dFp32",
    "torchvision.models.convnext.LayerNorm2d",
)
RMS_NORMS_OF_MAPS = (
    "timm.layers.norm.RmsNorm2d",
    "timm.layers.norm.RmsNorm2dFp32",
    "timm.layers.norm_act.RmsNormAct2d",
    "timm.layers.norm_act.RmsNormAct2dFp32",
)
SIMPLE_NORMS_OF_MAPS = ("timm.layers.norm.SimpleNorm2d", "timm.layers.norm.SimpleNorm2dFp32")
LAYER_NORMS = ("timm.layers.norm.LayerNorm", "timm.layers.norm.LayerNormFp32")
ACTIVATED_LAYER_NORMS = ("timm.layers.norm_act.LayerNormAct", "timm.layers.norm_act.LayerNormActFp32")
RMS_NORMS = ("timm.layers.norm.RmsNorm", "timm.layers.norm.RmsNormFp32")
ACTIVATED_RMS_NORMS = ("timm.layers.norm_act.RmsNormAct", "timm.layers.norm_act.RmsNormActFp32")
SIMPLE_NORMS = ("timm.layers.norm.SimpleNorm", "timm.layers.norm.SimpleNormFp32")
RESPONSE_NORMS = ("timm.layers.grn.GlobalResponseNorm",)

# Pooling, attention, and a convolution whose padding follows its input's size.
BLURS = ("timm.layers.blur_pool.BlurPool2d",)
POOLS = (
    "timm.layers.median_pool.MedianPool2d",
    "timm.layers.pool2d_same.AvgPool2dSame",
    "timm.layers.pool2d_same.MaxPool2dSame",
)
GLOBAL_CONTEXTS = ("timm.layers.global_context.GlobalContext",)
SAME_CONVOLUTIONS = ("timm.layers.conv2d_same.Conv2dSame",)


def is_one_of(kind: type, names: Iterable[str]) -> bool:
    """Return whether the class ``kind`` has one of ``names``, in any module of its package."""
    own = (kind.__module__.split(".")[0], kind.__name__)
    return any(own == (name.split(".")[0], name.rpartition(".")[2]) for name in names)

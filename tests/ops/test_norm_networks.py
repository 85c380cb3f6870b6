"""Whole networks with norms other than BatchNorm: converted without a boundary, and equal to the reference.

Small ones, of the classes and blocks of timm's and torchvision's models; low channels are drawn at random, so
that groups have different numbers of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.layers as T
import torch
import torch.nn.functional as F
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

import octify
from octify.compare.oracles import enlivened
from octify.layout.channels import mask_of
from octify.layout.roles import is_vector
from octify.ops import table
from octify.ops.emitter import display_name
from octify.passes.reference import reference
from octify.passes.resolve import resolve
from octify.passes.rewrite import rewrite
from octify.planning.choose import cells
from octify.trace import Traced, trace
from tests.oracle import EXACT, assert_same, error, noise

NORM_OPS = (
    "BatchNorm",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "SimpleNorm",
    "EvoNorm",
    "norm",
    "global response norm",
    "normalize",
)


@pytest.fixture
def no_rounding_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's layers compute statistics in float32 whatever they are given; here in what they are given."""
    to_float32 = Tensor.float
    monkeypatch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float32(x))


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=5, **options)

    return build


def poolformer() -> nn.Module:
    from timm.models.metaformer import GroupNorm1NoBias, MetaFormer

    dims, depths = (16, 24, 32, 48), (1, 1, 1, 1)
    return MetaFormer(
        num_classes=5, depths=depths, dims=dims, norm_layers=GroupNorm1NoBias, use_mlp_head=False
    )


class OwnLayerNorm(nn.LayerNorm):
    """As many a repository has it: nobody's rule, so it is traced through."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class OwnGroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).type_as(x)


class EveryLayer(nn.Module):
    """One layer of every kind, each after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dS0, EvoNorm2dS2a
        from timm.layers.filter_response_norm import FilterResponseNormTlu2d

        norms = [
            nn.GroupNorm(4, 8),
            T.GroupNormAct(8, 2),
            T.LayerNorm2d(8),
            T.LayerNormAct2d(8),
            T.RmsNorm2d(8),
            T.SimpleNorm2d(8),
            OwnLayerNorm(8),
            OwnGroupNorm(2, 8),
            GlobalResponseNorm(8, channels_last=False),
            EvoNorm2dS0(8, 4),
            EvoNorm2dS2a(8, 2),
            EvoNorm2dB0(8),
            nn.InstanceNorm2d(8),
            FilterResponseNormTlu2d(8),
        ]
        layers: list[nn.Module] = []
        for norm in norms:
            layers += [nn.Conv2d(8 if layers else 3, 8, 1), norm, nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class ChannelsLast(nn.Module):
    """Norms of the last dimension, as layers and as functions, between permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [
                nn.LayerNorm(8),
                T.LayerNorm(8),
                T.LayerNormAct(8),
                nn.RMSNorm(8),
                T.RmsNorm(8),
                T.SimpleNorm(8),
                GlobalResponseNorm(8),
            ]
        )
        self.convs = nn.ModuleList([nn.Conv2d(8 if n else 3, 8, 1) for n in range(len(self.norms) + 2)])
        self.weight = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))
        self.head = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = norm(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.convs[-2](x).movedim(1, -1)
        x = F.layer_norm(x, (8,), self.weight, bias=self.bias, eps=1e-4).movedim(-1, 1)
        x = self.convs[-1](x).permute(0, 2, 3, 1)
        x = F.rms_norm(x, [8], self.weight).permute(0, 3, 1, 2)
        return self.head(x).mean((2, 3))


class Functional(nn.Module):
    """Norms by functions, with parameters of the network's own, two of them tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 12, 3, padding=1)
        self.weight = nn.Parameter(torch.ones(16))
        self.bias = nn.Parameter(torch.zeros(16))
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.group_norm(self.first(x), 4, self.weight, self.bias, eps=1e-4))
        x = F.silu(F.instance_norm(self.second(x), weight=self.weight, bias=self.bias))
        x = F.batch_norm(self.third(x), self.mean, self.var, eps=1e-3)
        x = F.relu(F.group_norm(x, 3))
        x = F.normalize(x, dim=1) + F.normalize(x, p=1, dim=-3)
        return self.head(x).mean((2, 3))


class InstanceNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.InstanceNorm2d(16, affine=True),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.InstanceNorm2d(24, track_running_stats=True),
            nn.ReLU(),
            nn.Conv2d(24, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "functional": Functional,
    "every layer": EveryLayer,
    "channels last": ChannelsLast,
    "instance norm": InstanceNormed,
    "resnet, GroupNorm": timm_model("resnet50_gn", layers=(1, 1, 1, 1), channels=(32, 64, 64, 96)),
    "convnext, LayerNorm2d": timm_model(
        "convnext_atto", conv_mlp=True, depths=(1, 1, 2, 1), dims=(16, 24, 32, 48)
    ),
    "convnext, RmsNorm2d": timm_model(
        "convnext_atto", conv_mlp=True, depths=(1, 1, 1, 1), dims=(16, 24, 32, 48), norm_layer="rmsnorm2d"
    ),
    "convnextv2, GRN": timm_model(
        "convnextv2_atto", conv_mlp=True, depths=(1, 1, 2, 1), dims=(16, 24, 32, 48)
    ),
    "poolformer, GroupNorm1NoBias": poolformer,
    "resnetv2, filter response norm": timm_model("resnetv2_50d_frn", layers=(1, 1, 1, 1)),
    "resnetv2, EvoNorm": timm_model("resnetv2_50d_evos", layers=(1, 1, 1, 1)),
}


def everywhere(model: nn.Module, x: Tensor, alpha: float) -> octify.Plan:
    return octify.convert(model, x, alpha, rules="everywhere", kernels="exact").plan


def shuffled(traced: Traced, plan: octify.Plan, seed: int = 0) -> octify.Plan:
    """The plan with as many low channels of every cell, but any."""
    random = np.random.default_rng(seed)
    resolved = resolve(traced, plan)
    low = np.zeros_like(resolved.low)
    for cell in (cell for parts in cells(resolved.layout) for cell in parts):
        low[random.choice(cell, int(resolved.low[cell].sum()), replace=False)] = True
    ids = {conv.path: conv for conv in resolved.layout.convs}

    def side(path: str, name: str, old: tuple[int, ...]) -> tuple[int, ...]:
        mask = mask_of(getattr(ids[path], name), low) if old else None
        return () if mask is None else tuple(int(c) for c in np.flatnonzero(mask))

    convs = tuple(
        replace(c, low_in=side(c.path, "ids_in", c.low_in), low_out=side(c.path, "ids_out", c.low_out))
        for c in plan.convs
    )
    return replace(plan, convs=convs)


def norm_nodes(traced: Traced) -> list[str]:
    known = table()
    found = []
    for node in traced.module.graph.nodes:
        op = known.find(traced, node)
        shape = traced.shape(node) or ()
        if op is not None and any(part in op.name for part in NORM_OPS) and not is_vector(shape):
            found.append(node.name)
    return found


@pytest.mark.usefixtures("no_rounding_to_float32")
@pytest.mark.parametrize(
    ("name", "alpha"), [*((name, 0.25) for name in NETWORKS), ("functional", 1.0), ("every layer", 1.0)]
)
def test_exact_equals_the_reference_without_merging_for_a_norm(name: str, alpha: float) -> None:
    torch.manual_seed(0)
    model, _ = enlivened(NETWORKS[name]().double().eval())
    x = noise(1, 3, 32, 32)
    traced = trace(model, x)
    plan = shuffled(traced, everywhere(model, x, alpha))
    converted = rewrite(traced, plan)
    octave = [n for n in norm_nodes(traced) if converted.resolved.mask(n) is not None]
    assert octave and not any(n in converted.resolved.layout.refusals for n in norm_nodes(traced))
    if alpha == 0.25:
        assert octave == norm_nodes(traced)
    displayed = {display_name(n) for n in traced.module.graph.nodes if n.name in octave}
    assert not [b for b in converted.boundaries if not b.vector and b.before in displayed]
    with torch.no_grad():
        wanted, original = reference(traced, plan)(x), model(x)
        assert_same(converted.module(x), wanted, EXACT)
    assert error(original, wanted) > 1e-6  # the projection does something here


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels"), [("functional", "paper"), ("every layer", "exact"), ("channels last", "exact")]
)
def test_exports(name: str, kernels: Any, tmp_path: Path) -> None:
    """onnxruntime agrees, also at another batch size."""
    torch.manual_seed(0)
    model, _ = enlivened(NETWORKS[name]().eval())
    x = noise(2, 3, 32, 32).float()
    converted = octify.convert(model, x, 0.5, rules="everywhere", kernels=kernels).model
    result = octify.export_onnx(converted, x, tmp_path / "net.onnx")
    assert result.passed and len(result.batch_sizes) == 2


def test_functional_norms_keep_their_parameters() -> None:
    """At their own paths, trained through both branches."""
    model, _ = enlivened(Functional().double().eval())
    x = noise(2, 3, 16, 16)
    converted = octify.convert(model, x, 0.5, rules="everywhere").model
    assert torch.equal(converted.get_parameter("weight"), model.weight)
    copy.deepcopy(converted)(x).square().sum().backward()
    converted(x).square().sum().backward()
    gradient = converted.get_parameter("weight").grad
    assert gradient is not None and bool((gradient != 0).all())


class Between(nn.Module):
    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.what(self.first(x)))


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "local response norm": (nn.LocalResponseNorm(3), "neighbours"),
    "rows": (lambda x: F.normalize(x, dim=2), "another dimension"),
    "other lengths": (lambda x: F.normalize(x, p=3.0), "order 1 and 2"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
    "channels last": (GlobalResponseNorm(8), "another dimension"),
    "rows and columns": (nn.LayerNorm((8, 8)), "positions"),
    "everything": (lambda x: F.layer_norm(x, (8, 8, 8)), "positions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name: str) -> None:
    what, reason = REFUSED[name]
    report = octify.convert(
        Between(what), noise(1, 3, 8, 8).float(), 0.5, rules="everywhere"
    ).report.to_dict()
    assert any(reason in row["reason"] for row in report["boundaries"])

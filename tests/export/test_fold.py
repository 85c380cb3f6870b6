"""Folding BatchNorm: the same function in float64, and no BatchNorm where there need be none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from octify.export.fold import Writer, fold_batchnorm, scale_outputs
from octify.export.norm import ChannelAffine, norm_of
from octify.nn import MergeOctave, OctaveBatchNorm2d, OctaveChannelwise, OctaveConv2d, SplitOctave
from octify.nn.groups import UnevenGroups
from tests.nets import Net
from tests.tellable import unless_untellable

# Folding is done and compared in float64: what is left is rounding, some 1e-16 per operation.
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in float64 and eval mode, with norms that do something (scales of either sign)."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for module in model.modules():
        norm = isinstance(module, _BatchNorm) or type(module).__name__.startswith("Frozen")
        for name in ("running_mean", "running_var", "weight", "bias"):
            tensor = getattr(module, name, None)
            if norm and tensor is not None:
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.data.copy_(values.abs() + 0.1 if name == "running_var" else values)
    return model


def assert_folds(model: nn.Module, *inputs: Tensor, norms: int = 0, added: int = 0) -> nn.Module:
    """Fold; the function stays, ``norms`` norms are left, ``added`` scale-and-shifts come in."""
    before = copy.deepcopy(model.state_dict())
    layers = len(_layers(model))
    folded = fold_batchnorm(model, inputs)
    with torch.no_grad():
        expected, actual = model(*inputs), folded(*inputs)
    assert torch.isfinite(expected).all() and expected.std() > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len([m for m in folded.modules() if isinstance(m, _BatchNorm)]) == norms
    assert len(_layers(folded)) == layers + added
    return folded


def _layers(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear, ChannelAffine)
    return [module for module in model.modules() if isinstance(module, kinds)]


def image(channels: int = 3, size: int = 8, batch: int = 2, dims: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *(size,) * dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
def test_conv_bn_relu_becomes_conv_relu(bias: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5), nn.ReLU())
    folded = assert_folds(randomised(net), image())
    assert isinstance(folded, fx.GraphModule)
    assert [n.op for n in folded.graph.nodes].count("call_module") == 2


@given(
    seed=st.integers(0, 2**31),
    groups=st.sampled_from([1, 2, 4]),
    outs=st.sampled_from([4, 8, 12]),
    dims=st.sampled_from([1, 2, 3]),
    transposed=st.booleans(),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
)
def test_any_convolution_takes_any_statistics(
    seed: int, groups: int, outs: int, dims: int, transposed: bool, bias: bool, affine: bool, eps: float
) -> None:
    torch.manual_seed(seed)
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    norm = getattr(nn, f"BatchNorm{dims}d")(outs, affine=affine, eps=eps)
    net = nn.Sequential(kind(8, outs, 3, stride=2, padding=1, groups=groups, bias=bias), norm)
    assert_folds(randomised(net, seed), image(8, 6, dims=dims))


def test_depthwise_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(6, 12, 3, groups=6, bias=False), nn.BatchNorm2d(12))
    assert_folds(randomised(net), image(6))


def test_residual_block() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = torch.relu(net.bn1(net.conv1(x)))
        out: Tensor = net.bn2(net.conv2(y)) + net.bn3(net.shortcut(x))
        return out

    net = Net(
        forward,
        conv1=nn.Conv2d(3, 4, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(4),
        conv2=nn.Conv2d(4, 4, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(4),
        shortcut=nn.Conv2d(3, 4, 1),
        bn3=nn.BatchNorm2d(4),
    )
    assert_folds(randomised(net), image())


def test_norm_before_the_convolution_becomes_a_depthwise_one() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return torch.cat([x, net.conv(torch.relu(net.bn(torch.cat([x, x * 2], 1))))], 1)

    net = Net(forward, conv=nn.Conv2d(6, 4, 3, padding=1), bn=nn.BatchNorm2d(6))
    folded = assert_folds(randomised(net), image(), added=1)
    assert isinstance(folded.bn, nn.Conv2d) and folded.bn.groups == 6


def test_identity_and_dropout_may_stand_between() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Dropout(0.5), nn.BatchNorm2d(4))
    assert_folds(randomised(net), image())


def test_shared_norm_folds_where_all_its_uses_do() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.a(x)) * net.bn(net.b(x))

    net = Net(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert_folds(randomised(net), image())


def test_shared_norm_folds_nowhere_if_one_use_does_not() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.a(x)) * net.bn(torch.relu(net.b(x)))

    net = Net(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_convolution_called_twice_is_left_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.conv(x)) + net.conv(x * 2)

    net = Net(forward, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_convolution_under_two_names_is_left_alone() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_module("bn", (graph.call_module("a", (x,)),))
    graph.output(graph.call_module("b", (first,)))
    net = fx.GraphModule({"a": conv, "b": conv, "bn": nn.BatchNorm2d(4)}, graph)
    assert_folds(randomised(net), image(4), added=1)


def test_output_used_elsewhere_is_left_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x)
        return net.bn(y) + y

    net = Net(forward, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_weight_read_elsewhere_is_left_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.conv(x)) * net.conv.weight.sum()

    net = Net(forward, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_tied_weight_is_untied() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.a(x)) + net.b(x)

    net = Net(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    net.b.weight = net.a.weight
    assert_folds(randomised(net), image())


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_computed_weight_is_left_alone(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_hooks_on_the_convolution_are_kept() -> None:
    net = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    net[0].register_forward_hook(lambda module, args, output: output.abs())
    assert_folds(net, image(), added=1)


def test_subclass_with_its_own_forward_is_left_alone() -> None:
    class Squared(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight**2, self.bias)

    net = nn.Sequential(Squared(3, 4, 3), nn.BatchNorm2d(4))
    assert_folds(randomised(net), image(), added=1)


def test_batch_statistics_are_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert_folds(randomised(net), image(), norms=1)


def test_norm_with_its_own_forward_is_left_alone() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Doubled(4))
    assert_folds(randomised(net), image(), norms=1)


def test_linear_with_batchnorm1d() -> None:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU())
    assert_folds(randomised(net), image(5, dims=0))


def test_linear_over_a_sequence_normalises_another_dimension() -> None:
    # (N, 4, 5) -> Linear -> (N, 4, 4): BatchNorm1d scales dimension 1, the linear layer writes dimension 2.
    net = randomised(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert_folds(net, x, added=1)
    torch.testing.assert_close(fold_batchnorm(net)(x), net(x), rtol=0, atol=TOLERANCE)


def test_optional_arguments_are_fixed_at_their_defaults() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor, mask: Tensor | None = None, flip: bool = False) -> Tensor:
            y: Tensor = self.bn(self.conv(x if mask is None else x * mask))
            return -y if flip else y

    assert_folds(randomised(Masked()), image())


def test_untraceable_model_comes_back_as_a_copy_in_eval_mode() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.bn(net.conv(x)) if x.sum() > 0 else net.conv(x)

    net = randomised(Net(forward, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))).train()
    folded = fold_batchnorm(net, (image(),))
    assert folded is not net and not folded.training and net.training
    assert torch.equal(folded(image()), net.eval()(image()))


def test_input_model_keeps_mode_and_weights() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = copy.deepcopy(net.state_dict())
    folded = fold_batchnorm(net)
    assert net.training and not folded.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_result_takes_the_dtype_and_gradient_flag_of_the_weights() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).half()
    net[0].weight.requires_grad_(False)
    folded = fold_batchnorm(net)
    assert {p.dtype for p in folded.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in folded.parameters())


# --- norms of other libraries -----------------------------------------------------------------


@pytest.mark.parametrize("apply_act", [False, True])
@pytest.mark.parametrize("follows", [False, True])
def test_timm_norm_keeps_its_activation(apply_act: bool, follows: bool) -> None:
    from timm.layers import BatchNormAct2d

    first = nn.Conv2d(3, 4, 3) if follows else nn.ConstantPad2d((0, 0, 0, 0), 0.0)
    norm = BatchNormAct2d(4 if follows else 3, apply_act=apply_act, act_layer=nn.SiLU, inplace=False)
    folded = assert_folds(randomised(nn.Sequential(first, norm)), image(), added=0 if follows else 1)
    assert any(isinstance(m, nn.SiLU) for m in folded.modules()) == apply_act


def test_timm_padding_same_is_folded_and_standardised_weights_are_not() -> None:
    from timm.layers import Conv2dSame, StdConv2d

    assert_folds(randomised(nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.BatchNorm2d(4))), image())
    # StdConv2d runs F.batch_norm over its weight in training mode: it is no bare linear map of it.
    net = randomised(nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert_folds(net, image(), added=1)


def test_torchvision_frozen_norm() -> None:
    from torchvision.ops.misc import FrozenBatchNorm2d

    net = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4)))
    folded = assert_folds(net, image())
    assert not list(folded.buffers())


def test_sync_batchnorm() -> None:
    norm = nn.SyncBatchNorm(4).eval()
    found = norm_of(norm)
    assert found is not None and found.rank is None


# --- octave values ----------------------------------------------------------------------------


class _OctaveTracer(fx.Tracer):
    """Octave layers as single nodes, as octify's own rewriting leaves them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("octify.nn") or super().is_leaf_module(m, module_qualified_name)


def octave_graph(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, _OctaveTracer().trace(model))


class OctaveNet(nn.Module):
    """split -> conv -> norm -> relu -> conv -> norm -> merge, over an octave value."""

    def __init__(
        self, alpha: float, hidden: float, bias: bool, stride: int, groups: int, kernels: Any = "paper"
    ) -> None:
        super().__init__()
        self.split = SplitOctave(8, alpha=alpha)
        self.conv1 = OctaveConv2d(
            8, 8, 3, stride, 1, 1, groups, bias, alpha_in=alpha, alpha_out=hidden, kernels=kernels
        )
        self.bn1 = OctaveBatchNorm2d(8, alpha=hidden)
        self.relu = OctaveChannelwise(nn.ReLU(), nn.ReLU())
        self.conv2 = OctaveConv2d(8, 8, 1, bias=bias, alpha_in=hidden, alpha_out=alpha, kernels=kernels)
        self.bn2 = OctaveBatchNorm2d(8, alpha=alpha)
        self.merge = MergeOctave(8, alpha=alpha)

    def forward(self, x: Tensor) -> Tensor:
        value = self.split(x)
        value = self.conv1(value[0], value[1])
        value = self.bn1(value[0], value[1])
        value = self.relu(value[0], value[1])
        value = self.conv2(value[0], value[1])
        value = self.bn2(value[0], value[1])
        y: Tensor = self.merge(value[0], value[1])
        return y


@given(
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    hidden=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    bias=st.booleans(),
    stride=st.sampled_from([1, 2]),
    kernels=st.sampled_from(["paper", "exact"]),
    size=st.sampled_from([8, 9, 12]),
)
def test_octave_norms_fold_into_both_paths(
    seed: int, alpha: float, hidden: float, bias: bool, stride: int, kernels: str, size: int
) -> None:
    torch.manual_seed(seed)
    net = randomised(octave_graph(OctaveNet(alpha, hidden, bias, stride, 1, kernels)), seed)
    alone = 1.0 in (alpha, hidden)
    folded = unless_untellable(lambda: assert_folds(net, image(8, size)), alone=alone)
    assert not [m for m in folded.modules() if isinstance(m, OctaveBatchNorm2d)]


def test_grouped_octave_convolution() -> None:
    assert_folds(randomised(octave_graph(OctaveNet(0.5, 0.5, False, 1, 2))), image(8))


@pytest.mark.parametrize("kernels", ["paper", "exact"])
@pytest.mark.parametrize("bias", [False, True])
def test_octave_convolution_of_unequal_groups(kernels: str, bias: bool) -> None:
    """A group whose inputs are all low gets the shift of its high outputs from the low-to-high path."""

    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        value = net.conv(value[0], value[1])
        value = net.bn(value[0], value[1])
        return net.merge(value[0], value[1])

    dense = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=bias)
    low_in, low_out = (1, 4, 5, 6), (2, 3, 4, 7, 8)
    conv = OctaveConv2d.from_conv(dense, low_in, low_out, kernels)  # type: ignore[arg-type]
    norm = OctaveBatchNorm2d.from_module(nn.BatchNorm2d(12), 12, low_out)
    net = Net(forward, split=SplitOctave(8, low_in), conv=conv, bn=norm, merge=MergeOctave(12, low_out))
    assert isinstance(conv.high_to_high, UnevenGroups)
    folded = assert_folds(randomised(octave_graph(net)), image(8))
    assert not [m for m in folded.modules() if isinstance(m, (OctaveChannelwise, ChannelAffine))]
    assert sum(p.numel() for p in folded.conv.parameters() if p.ndim == 1) == 12  # type: ignore[union-attr]


def test_octave_norm_with_nothing_to_fold_into() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        value = net.bn(value[0], value[1])
        return net.merge(value[0], value[1])

    net = Net(forward, split=SplitOctave(8), bn=OctaveBatchNorm2d(8), merge=MergeOctave(8))
    assert_folds(randomised(octave_graph(net)), image(8), added=2)


def test_octave_branch_used_elsewhere_is_left_alone_and_the_other_folded() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        conv = net.conv(value[0], value[1])
        high = conv[0]
        norm = net.bn(high, conv[1])
        return net.merge(norm[0] + high, norm[1])

    modules = {"conv": OctaveConv2d(8, 8, 3, padding=1), "bn": OctaveBatchNorm2d(8)}
    net = Net(forward, split=SplitOctave(8), merge=MergeOctave(8), **modules)
    assert_folds(randomised(octave_graph(net)), image(8), added=1)


def test_octave_branch_read_twice_is_left_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        conv = net.conv(value[0], value[1])
        norm = net.bn(conv[0], conv[1])
        return net.merge(norm[0] + conv[0], norm[1])  # conv[0] is a second getitem here

    modules = {"conv": OctaveConv2d(8, 8, 3, padding=1), "bn": OctaveBatchNorm2d(8)}
    net = Net(forward, split=SplitOctave(8), merge=MergeOctave(8), **modules)
    assert_folds(randomised(octave_graph(net)), image(8), added=1)


def test_hooks_on_an_octave_convolution_are_kept() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        value = net.conv(value[0], value[1])
        value = net.bn(value[0], value[1])
        return net.merge(value[0], value[1])

    modules = {"conv": OctaveConv2d(8, 8, 3, padding=1), "bn": OctaveBatchNorm2d(8)}
    net = randomised(octave_graph(Net(forward, split=SplitOctave(8), merge=MergeOctave(8), **modules)))
    net.conv.register_forward_hook(lambda module, args, output: tuple(y.abs() for y in output))
    assert_folds(net, image(8), added=2)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_the_shift_enters_a_sum_once(biases: tuple[bool, bool]) -> None:
    first, second = (nn.Conv2d(3, 4, 3, bias=bias).double() for bias in biases)
    scale, shift = torch.randn(4).double(), torch.randn(4).double()
    x = image()
    with torch.no_grad():
        expected = (first(x) + second(x)) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        scale_outputs((Writer(first), Writer(second)), scale, shift)
        torch.testing.assert_close(first(x) + second(x), expected, rtol=0, atol=TOLERANCE)


def test_octave_convolution_called_twice_is_left_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        value = net.conv(value[0], value[1])
        value = net.bn(value[0], value[1])
        value = net.conv(value[0], value[1])
        return net.merge(value[0], value[1])

    modules = {"conv": OctaveConv2d(8, 8, 3, padding=1), "bn": OctaveBatchNorm2d(8)}
    net = Net(forward, split=SplitOctave(8), merge=MergeOctave(8), **modules)
    assert_folds(randomised(octave_graph(net)), image(8), added=2)


def test_dense_norm_after_an_octave_convolution_that_leaves_octave() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        value = net.split(x)
        y: Tensor = net.bn(net.conv(value[0], value[1])[0])
        return y

    modules = {"conv": OctaveConv2d(8, 8, 3, padding=1, alpha_out=0.0), "bn": nn.BatchNorm2d(8)}
    net = Net(forward, split=SplitOctave(8), **modules)
    assert_folds(randomised(octave_graph(net)), image(8))


def test_octave_norm_with_fused_activation() -> None:
    from timm.layers import BatchNormAct2d

    class Fused(OctaveNet):
        def __init__(self) -> None:
            super().__init__(0.5, 0.5, False, 1, 1)
            self.bn1 = OctaveBatchNorm2d.from_module(BatchNormAct2d(8, act_layer=nn.SiLU), 8, range(4))
            self.relu = OctaveChannelwise(nn.Identity(), nn.Identity())

    folded = assert_folds(randomised(octave_graph(Fused())), image(8))
    assert len([m for m in folded.modules() if isinstance(m, nn.SiLU)]) == 2

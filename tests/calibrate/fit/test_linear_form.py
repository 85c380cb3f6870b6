"""Every branch of every kind of octave convolution is linear in its weights, and these are its rows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from octify.calibrate.fit.linear_form import Reading, blocks
from octify.calibrate.fit.rows import sample
from octify.kernels.taps import Scheme
from octify.nn import OctaveConv
from octify.nn.conv import OCTAVE_CONV
from octify.nn.conv_transpose import OCTAVE_CONV_TRANSPOSE
from octify.nn.functional import output_sizes, pool
from octify.nn.padded import OCTAVE_PADDED, padded_conv

SEEDS = st.integers(0, 999)
SCHEMES = st.sampled_from(["paper", "exact"])


def picked(channels: int, groups: int, even: bool, generator: torch.Generator) -> list[int]:
    """Random low channels: as many in every group, or anywhere."""
    if not even:
        return [c for c in range(channels) if torch.rand((), generator=generator) < 0.5]
    per = channels // groups
    count = int(torch.randint(per + 1, (), generator=generator))
    return sorted(
        g * per + int(c) for g in range(groups) for c in torch.randperm(per, generator=generator)[:count]
    )


def check(octave: OctaveConv, size: Sequence[int], generator: torch.Generator) -> None:
    """Rows times weights, plus biases, are the module's own outputs; weights read are weights written."""
    x = torch.randn(3, octave.in_channels, *size, generator=generator, dtype=torch.float64)
    low_in = set(octave.low_in)
    high = x[:, [c for c in range(octave.in_channels) if c not in low_in]]
    inputs = {
        "high": high if high.shape[1] else None,
        "low": pool(x[:, list(octave.low_in)]) if low_in else None,
    }
    if inputs["high"] is None:
        size = [n - n % 2 for n in size]  # an odd size cannot be told from a low branch
        inputs["low"] = inputs["low"][(..., *(slice((n + 1) // 2) for n in size))]  # type: ignore[index]
    outputs = octave(inputs["high"], inputs["low"])
    whole, *needs = output_sizes(inputs["high"], inputs["low"], octave.axes)
    for branch, y, need in zip(("high", "low"), outputs, needs, strict=True):
        if y is None:
            assert not blocks(octave, branch)
            continue
        where = sample(3, need, 9, generator, x.device)
        covered = torch.zeros(y.shape[1], dtype=torch.bool)
        for block in blocks(octave, branch):
            rows, weights = Reading(octave, whole, need).rows(block, inputs, where), block.rows()
            predicted = rows @ weights
            for part in block.slices:
                if part.conv.bias is not None:
                    predicted = predicted + part.conv.bias.detach()[block.places(part.first)].reshape(
                        block.groups, 1, -1
                    )
            torch.testing.assert_close(predicted, block.grouped(where.pick(y)), rtol=0, atol=1e-12)
            assert not covered[block.channels].any()
            covered[block.channels] = True
            before = [part.conv.weight.detach().clone() for part in block.slices]
            for part, own in block.parted(torch.zeros_like(weights)):
                part.write(own)
            assert not block.rows().any()
            for part, own in block.parted(weights):
                part.write(own)
            for part, was in zip(block.slices, before, strict=True):
                assert torch.equal(part.conv.weight, was)
        assert covered.all()


@settings(deadline=None, max_examples=100)
@given(
    kernel=st.sampled_from([1, 2, 3, 5, (3, 1), 7]),
    stride=st.sampled_from([1, 2, 3, (2, 1), 4]),
    dilation=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4, 8]),
    padding=st.integers(0, 3),
    size=st.tuples(st.integers(13, 20), st.integers(13, 20)),
    scheme=SCHEMES,
    even=st.booleans(),
    seed=SEEDS,
)
def test_convolutions_even_and_unevenly_grouped(  # type: ignore[no-untyped-def]
    kernel, stride, dilation, groups, padding, size, scheme: Scheme, even, seed
) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(8, 16, kernel, stride, padding, dilation, groups).double()
    if any(axis < d * (k - 1) + 1 for axis, d, k in zip(size, conv.dilation, conv.kernel_size, strict=True)):
        return
    low = [picked(channels, groups, even, generator) for channels in (8, 16)]
    if len(low[0]) == 8 and any(n % 2 for n in size):
        return  # low channels alone do not tell an odd size: no plan has such a convolution
    check(OCTAVE_CONV[2].from_conv(conv, *low, scheme), size, generator)


@settings(deadline=None, max_examples=80)
@given(
    kernel=st.sampled_from([1, 2, 3, 4, 5]),
    stride=st.sampled_from([1, 2, 3, (1, 2)]),
    padding=st.integers(0, 2),
    output_padding=st.integers(0, 1),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 8]),
    size=st.tuples(st.integers(5, 10), st.integers(5, 10)),
    even=st.booleans(),
    seed=SEEDS,
)
def test_transposed_convolutions(  # type: ignore[no-untyped-def]
    kernel, stride, padding, output_padding, dilation, groups, size, even, seed
) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    smallest = min(stride) if isinstance(stride, tuple) else stride
    if output_padding >= max(smallest, dilation) or padding > dilation * (kernel - 1):
        return
    conv = nn.ConvTranspose2d(
        8, 8, kernel, stride, padding, output_padding, groups, dilation=dilation
    ).double()
    low_in = picked(8, groups, even, generator)
    low_out = low_in if groups == 8 else picked(8, groups, even, generator)
    check(OCTAVE_CONV_TRANSPOSE[2].from_conv(conv, low_in, low_out), size, generator)


@settings(deadline=None, max_examples=80)
@given(
    mode=st.sampled_from(["zeros", "replicate", "reflect", "circular"]),
    pads=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    kernel=st.sampled_from([1, 3, 5, (1, 3)]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(10, 15), st.integers(10, 15)),
    scheme=SCHEMES,
    seed=SEEDS,
)
def test_convolutions_with_their_own_padding(  # type: ignore[no-untyped-def]
    mode, pads, kernel, stride, dilation, size, scheme: Scheme, seed
) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    plain = nn.Conv2d(8, 8, kernel, stride, dilation=dilation, groups=2).double()
    conv = padded_conv(plain.weight, plain.bias, plain.stride, plain.dilation, 2, pads, mode)
    if mode == "circular":
        size = [n + n % 2 for n in size]
    low = [picked(8, 2, True, generator) for _ in range(2)]
    kinds = OCTAVE_CONV if mode == "zeros" else OCTAVE_PADDED
    check(kinds[2].from_conv(conv, *low, scheme), size, generator)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "same", "padded", "transposed"])
@pytest.mark.parametrize("scheme", ["paper", "exact"])
def test_sequences_and_videos(dims: int, kind: str, scheme: Scheme) -> None:
    torch.manual_seed(dims)
    generator = torch.Generator().manual_seed(3)
    plain: type[nn.Module] = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    if kind == "transposed":
        turned = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[dims](8, 8, 3, 2, 1, 1).double()
        octave: OctaveConv = OCTAVE_CONV_TRANSPOSE[dims].from_conv(turned, [1, 4, 5], [0, 7], scheme)
    else:
        made = plain(8, 8, 3, 2, 1).double()
        mode = "replicate" if kind == "padded" else "zeros"
        pads = ((0, 1),) * dims if kind == "same" else ((1, 1),) * dims
        conv = padded_conv(made.weight, made.bias, made.stride, made.dilation, 1, pads, mode, kind == "same")
        kinds = OCTAVE_PADDED if kind == "padded" else OCTAVE_CONV
        octave = kinds[dims].from_conv(conv, [1, 4, 5], [0, 7], scheme)
    check(octave, (9, 12, 11)[:dims], generator)


def test_a_block_of_zeros_reads_no_values() -> None:
    """Places outside the map are zeros, not the sample at the edge."""
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    octave = OCTAVE_CONV[2].from_conv(conv, [], [])
    (block,) = blocks(octave, "high")
    where = sample(1, (4, 4), 16, torch.Generator(), torch.device("cpu"))
    ones: dict[str, Tensor | None] = {"high": torch.ones(1, 2, 4, 4, dtype=torch.float64), "low": None}
    rows = Reading(octave, (4, 4), (4, 4)).rows(block, ones, where)
    corners = [0, 3, 12, 15]
    assert rows[0].sum(1)[corners].tolist() == [8.0] * 4  # 2 channels of 4 taps

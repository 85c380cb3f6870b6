"""Tracing: a graph computes what the model computes, names what it could not enter, and knows its costs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from octify.errors import TraceError
from octify.trace import trace
from tests.oracle import noise

HERE = __file__.rpartition("/")[2]


class Conv(nn.Module):
    """A convolution of 8 channels, then ``body``, then another one."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = body
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.stem(x).relu()))


class Asks(nn.Module):
    """A module whose forward is ``function(self, x)``."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def line_of(function: Callable[..., Any], text: str) -> str:
    """``file:line`` of the first line of ``function`` that contains ``text``."""
    lines, start = inspect.getsourcelines(function)
    return f"{HERE}:{start + next(i for i, line in enumerate(lines) if text in line)}"


def same(model: nn.Module, *inputs: Tensor, sizes: tuple[Tensor, ...] = ()) -> fx.GraphModule:
    """The graph of ``model``, after comparing its answers with the model's at ``inputs`` (and ``sizes``)."""
    model = model.double().eval()
    module = trace(model, inputs).module
    with torch.no_grad():
        for each in (inputs, *((s,) for s in sizes)):
            assert torch.equal(module(*each), model(*each))
    return module


# Values decide: an opaque leaf ------------------------------------------------------------------------------


def on_values(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y if x.sum() > 0 else -y


def in_a_loop(net: Any, x: Tensor) -> Tensor:
    return torch.stack([net.conv(image[None])[0] for image in x])


@pytest.mark.parametrize(("function", "text"), [(on_values, "x.sum() > 0"), (in_a_loop, "in x]")])
def test_an_opaque_leaf_is_named_with_its_line(function: Any, text: str) -> None:
    model = Conv(nn.Sequential(Asks(function), nn.ReLU())).double().eval()
    traced = trace(model, noise(2, 3, 8, 8))
    (leaf,) = traced.opaque
    assert (leaf.path, leaf.kind) == ("body.0", "Asks")
    assert (leaf.where or "").endswith(line_of(function, text))
    assert traced.fixed_sizes == ()
    x = noise(3, 3, 10, 6, seed=1)
    with torch.no_grad():
        assert torch.equal(traced.module(x), model(x))


def test_every_opaque_leaf_is_found_and_no_more() -> None:
    body = nn.Sequential(Asks(on_values), Asks(lambda net, x: net.conv(x)), Asks(in_a_loop), nn.ReLU())
    traced = trace(Conv(body).eval(), torch.zeros(1, 3, 8, 8))
    assert [leaf.path for leaf in traced.opaque] == ["body.0", "body.2"]
    assert "body.1.conv" in {str(node.target) for node in traced.module.graph.nodes}


def test_an_untraceable_root_without_parts() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(TraceError, match="Root cannot be traced") as caught:
        trace(Root(), torch.zeros(1, 3, 8, 8))
    assert (caught.value.where or "").endswith(line_of(Root, "x.sum() > 0"))


# The number of parts is the model's own: sizes stay open ------------------------------------------------------


def chunks(net: Any, x: Tensor) -> Tensor:
    parts = x.chunk(4, 1)
    return net.conv(torch.cat([part * i for i, part in enumerate(parts)][: len(parts)], 1))


def listed_chunks(net: Any, x: Tensor) -> Tensor:
    parts = list(torch.chunk(x, chunks=2, dim=-3))
    parts.extend(parts[-1] * i for i in range(2))
    return net.conv(torch.cat(parts[:1] + parts[-1:], 1))


def splits(net: Any, x: Tensor) -> Tensor:
    return net.conv(torch.cat(list(reversed([*torch.split(x, 2, dim=1)])), 1))


def listed_sizes(net: Any, x: Tensor) -> Tensor:
    return net.conv(torch.cat([part * 2 for part in x.split([3, 5], 1)], 1))


def chunked_rows(net: Any, x: Tensor) -> Tensor:
    return net.conv(torch.cat([part * 2 for part in x.chunk(2, 2)], 2))


PARTS = (chunks, listed_chunks, splits, listed_sizes, chunked_rows)


@pytest.mark.parametrize("function", PARTS)
@pytest.mark.parametrize("inside", [True, False], ids=["a submodule", "the root"])
def test_a_number_of_parts_leaves_the_sizes_open(function: Any, inside: bool) -> None:
    model = (Conv(Asks(function)) if inside else Asks(function)).double().eval()
    channels = 3 if inside else 8
    traced = trace(model, noise(2, channels, 8, 6))
    assert (traced.opaque, traced.fixed_sizes, traced.parts) == ((), (), None)
    for sizes in ((2, 8, 6), (1, 7, 10), (3, 12, 5)):
        x = noise(sizes[0], channels, *sizes[1:], seed=sizes[1])
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))


# Sizes decide: traced for the decisions of the example's height and width ------------------------------------------------------


def pads_odd(net: Any, x: Tensor) -> Tensor:
    if x.shape[2] % 2 or x.size(-1) % 2:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    return net.conv(x)


def flattens(net: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = x.flatten(2) if h == w else x.transpose(2, 3).reshape(b, c, h * w)
    return net.conv(y.view(b, c, h, w) + torch.zeros((b, 1, 1, 1), dtype=x.dtype))


def asserts(net: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 8 and x.dim() == len(x.shape) == 4 and isinstance(x, Tensor)
    return net.conv(x)


def rows(net: Any, x: Tensor) -> Tensor:
    parts = x.split(2, 2)
    return net.conv(torch.cat([part * i for i, part in enumerate(parts)][: len(parts)], 2))


def same_shape(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return x + y if x.shape == y.shape else y


def made_like(net: Any, x: Tensor) -> Tensor:
    y = x * 2 if x.shape[2] == x.shape[3] else x
    return net.conv(y + torch.ones(y.shape, dtype=y.dtype, device=y.device))


BY_SIZE = (pads_odd, flattens, asserts, rows, same_shape, made_like)


# Factories ----------------------------------------------------------------------------------------------------

MADE: dict[str, Any] = {
    "a shape": lambda x: torch.ones(x.shape, dtype=x.dtype),
    "a shape and a device": lambda x: torch.ones(x.shape, dtype=x.dtype, device=x.device),
    "a device asked for before": lambda x: (lambda d: torch.ones(x.shape, dtype=x.dtype, device=d))(x.device),
    "sizes": lambda x: torch.ones(*x.shape, dtype=x.dtype),
    "sizes and numbers": lambda x: torch.ones(x.shape[0], 1, 1, x.size(3), dtype=x.dtype, device=x.device),
    "one size": lambda x: torch.ones(x.shape[0], dtype=x.dtype).reshape(-1, 1, 1, 1),
    "a tuple": lambda x: torch.full((x.shape[0], 1, *x.shape[2:]), 2, dtype=x.dtype),
    "a range": lambda x: torch.arange(x.shape[3], dtype=x.dtype, device=x.device),
    "random": lambda x: 0 * torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("sized", [True, False], ids=["sizes decide", "sizes stay open"])
@pytest.mark.parametrize("inside", [True, False], ids=["a submodule", "the root"])
def test_tensors_made_of_sizes(what: str, sized: bool, inside: bool) -> None:
    """What is made is recorded, not built into the graph: the batch (and the sizes) may be others."""

    def function(net: Any, x: Tensor) -> Tensor:
        if sized and x.shape[2] == 1:
            return x
        return net.conv(x + MADE[what](x))

    model = (Conv(Asks(function)) if inside else Asks(function)).double().eval()
    channels = 3 if inside else 8
    traced = trace(model, noise(2, channels, 8, 6))
    assert (traced.opaque, traced.parts) == ((), None)
    for sizes in ((2, 8, 6), (3, 8, 6), *([] if sized else [(1, 5, 9)])):
        x = noise(sizes[0], channels, *sizes[1:], seed=sizes[0])
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))


@pytest.mark.parametrize("function", BY_SIZE)
@pytest.mark.parametrize("side", [8, 7])
def test_sizes_may_decide_and_the_batch_stays_open(function: Any, side: int) -> None:
    model = Conv(Asks(function)).double().eval()
    traced = trace(model, noise(2, 3, side, 8))
    assert traced.opaque == ()
    if function is not asserts:  # which asks of channels and dimensions alone
        assert [each.path for each in traced.fixed_sizes] == ["body"]
        assert HERE in (traced.fixed_sizes[0].where or "")
    assert "body.conv" in {str(node.target) for node in traced.module.graph.nodes}
    for batch in (1, 2, 5):
        x = noise(batch, 3, side, 8, seed=batch)
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x) * 2 if x.shape[0] == 2 else net.conv(x),
        lambda net, x: net.conv(x) * 2 if x.numel() > 1024 else net.conv(x),
        lambda net, x: sum(net.conv(x)[i : i + 1] for i in range(x.shape[0])),
        lambda net, x: net.conv(x) * 2 if x.size()[0] * 3 == 6 else net.conv(x),
    ],
)
def test_the_batch_decides_nothing(function: Any) -> None:
    """The example's batch would be built into the graph, which would be wrong for every other one."""
    model = Conv(Asks(function)).double().eval()
    traced = trace(model, noise(2, 3, 8, 8))
    assert [leaf.path for leaf in traced.opaque] == ["body"]
    for batch in (1, 2, 5):
        x = noise(batch, 3, 8, 8, seed=batch)
        with torch.no_grad():
            assert torch.equal(traced.module(x), model(x))


# Arguments ----------------------------------------------------------------------------------------------------


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *more: Tensor,
        times: int = 2,
        flip: bool = False,
        scale: float = 0.5,
        mode: str = "relu",
        **rest: Any,
    ) -> Tensor:
        y = self.conv(x) * scale
        for extra in (mask, *more):
            if extra is not None:
                y = y + extra
        for _ in range(times):
            y = getattr(torch, mode)(y) if mode in ("relu",) and not rest else y
        return y.flip(-1) if flip else y


@pytest.mark.parametrize("given", [1, 2, 4])
def test_arguments_that_are_not_given_keep_their_defaults(given: int) -> None:
    inputs = (noise(2, 3, 8, 8), *(noise(2, 8, 6, 6, seed=i) for i in range(1, given)))
    module = same(Optional(), *inputs)
    assert len(module.graph.find_nodes(op="placeholder")) == given


def test_inputs_that_are_missing_or_too_many() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor, *, z: Tensor) -> Tensor:
            return x + y + z

    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(TraceError, match="needs more inputs: y, z"):
        trace(Two(), x)
    with pytest.raises(TraceError, match=r"takes 2 input\(s\), 3 were given"):
        trace(Two(), (x, x, x))


# What tracing must not do ---------------------------------------------------------------------------------------


class Caches(nn.Module):
    """Keeps what it computed first, as positional embeddings and anchors are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.cache: Any = None
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = x.mean((0, 2, 3), keepdim=True) * 0
        self.seen.append(x)
        return self.conv(x + self.cache) if x.shape[2] % 2 == 0 else x


def test_the_model_and_its_caches_are_left_alone() -> None:
    model = Conv(Caches()).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    traced = trace(model, noise(1, 3, 8, 8))
    assert model.body.cache is None and model.body.seen == []
    assert model.training and traced.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in traced.module.parameters()}
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(traced.module(x), model.eval()(x))


def test_a_shared_module_has_one_path_and_two_calls() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = Conv(nn.Sequential(conv, nn.ReLU(), conv))
    traced = trace(model, torch.zeros(1, 3, 8, 8))
    assert len(traced.calls("body.0")) == 2
    assert traced.calls("body.2") == ()
    assert traced.submodule(traced.calls("body.0")[0]) is traced.submodule(traced.calls("body.0")[1])
    same(model, noise(1, 3, 8, 8))


def test_recorded_assertions_are_dropped() -> None:
    def checks(net: Any, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] >= 4, "too small")
        return net.conv(x) if not torch.jit.is_scripting() and not torch.jit.is_tracing() else x

    module = same(Conv(Asks(checks)), noise(1, 3, 8, 8), sizes=(noise(1, 3, 6, 10),))
    assert not [node for node in module.graph.nodes if "assert" in node.name or node.target is getattr]


# Facts ----------------------------------------------------------------------------------------------------------


class Shapes(fx.Interpreter):
    """Notes the real shape of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...] | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.shapes[n.name] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


class Mixed(nn.Module):
    """Convolutions of all kinds, attention, products."""

    def __init__(self, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride, 1)
        self.grouped = nn.Conv2d(channels, channels, 3, 1, 1, groups=groups)
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.fc = nn.Linear(channels, 5, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.grouped(self.stem(x).relu_())
        first, second = self.up(x).chunk(2, 1)
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        return torch.cat([second, first], 1), self.fc(y).mean(1) @ torch.ones(5, 2)


@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    batch=st.integers(1, 3),
    side=st.integers(4, 9),
)
def test_facts_are_real_shapes_and_the_counters_macs(groups: int, stride: int, batch: int, side: int) -> None:
    model = Mixed(8, stride, groups).eval()
    x = torch.randn(batch, 3, side, side + 1)
    traced = trace(model, x)
    real = Shapes(traced.module)
    with torch.no_grad():
        real.run(x)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x)
    for node in traced.module.graph.nodes:
        assert traced.shape(node) == real.shapes[node.name], node.name
    assert sum(known.macs for known in traced.facts.values()) * 2 == counter.get_total_flops()
    by_name = {node.name: traced.facts[node.name] for node in traced.module.graph.nodes}
    assert by_name["relu_"].new_bytes == by_name["chunk"].new_bytes == by_name["flatten"].new_bytes == 0
    assert by_name["stem"].new_bytes == 4 * torch.Size(traced.shape(traced.calls("stem")[0]) or ()).numel()


def test_tracing_on_the_meta_device() -> None:
    model = Mixed(8, 1, 1).eval()
    real, meta = trace(model, torch.zeros(2, 3, 8, 8)), trace(model, torch.zeros(2, 3, 8, 8, device="meta"))
    assert real.facts == meta.facts


class Divided(nn.Module):
    """Decides by the sizes of a map, in a submodule, and makes a map of its own."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] % 2:
                x = F.pad(x, (0, 1, 0, 1))
            return self.conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.padded = self.Padded()

    def forward(self, x: Tensor) -> Tensor:
        return self.padded(self.stem(x).relu())


@pytest.mark.parametrize("side", [8, 9])
def test_sizes_are_known_on_the_models_own_device(side: int) -> None:
    """The graph of a model without data is that of the model with data."""
    x = torch.zeros(2, 3, side, side)
    real, meta = trace(Divided().eval(), x), trace(Divided().eval().to("meta"), x.to("meta"))
    for traced in (real, meta):
        assert not traced.opaque
        assert [told.path for told in traced.fixed_sizes] == ["padded"]
    assert real.facts == meta.facts
    assert [n.name for n in real.module.graph.nodes] == [n.name for n in meta.module.graph.nodes]

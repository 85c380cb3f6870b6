"""Convolutions of a traced model, as rules and the planner see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from torch import fx, nn

from octify.compat import ConvNd, ConvTransposeNd
from octify.kernels.taps import Exchange, PathName
from octify.kernels.transposed import path_share
from octify.layout.channels import ConvNode, Layout
from octify.layout.roles import is_vector
from octify.nn.conv_transpose import transposed_axes
from octify.nn.exchange import has_path
from octify.ops.conv import is_depthwise
from octify.ops.linear import conv_form
from octify.planning.ruleset import ConvFacts
from octify.trace import Traced
from octify.trace.batchnorm import is_batch_norm


@dataclass(frozen=True)
class Conv:
    """Convolution module with all its calls; a linear layer of a map counts as a 1x1 convolution.

    inputs:
        Spatial size of the input map of every call. ``batch`` is the number of maps.
    macs:
        MACs of all calls together. ``vector``: every call outputs one sample per channel, as in
        squeeze-and-excitation, so there is no resolution to halve.
    exchange:
        Which paths between high and low channels a 1x1 convolution has.
    clipped:
        Whether an activation follows that runtimes fuse with a convolution, but not with a sum.
    """

    path: str
    module: ConvNd
    calls: tuple[ConvNode, ...]
    macs: int
    size: int
    reduction: int
    stem: bool
    vector: bool
    inputs: tuple[tuple[int, ...], ...] = ()
    batch: int = 1
    exchange: Exchange = "full"
    clipped: bool = False

    @cached_property
    def depthwise(self) -> bool:
        """One input channel per group."""
        return is_depthwise(self.module)

    @cached_property
    def pointwise(self) -> bool:
        """Return whether the convolution mixes channels only: 1x1, and not transposed."""
        return not isinstance(self.module, ConvTransposeNd) and max(self.module.kernel_size) == 1

    @cached_property
    def low_to_high_costs_full(self) -> bool:
        """Return whether the low-to-high path works at the output's resolution (strides above 1)."""
        return any(stride > 1 for stride in self.module.stride)

    def share(self, alpha_in: float, alpha_out: float) -> float:
        """MACs under the paper's scheme over the dense MACs (Chen et al. 2019, table 1)."""
        if self.vector:
            return 1.0
        if isinstance(self.module, ConvTransposeNd):
            return self._transposed_share(alpha_in, alpha_out)
        quarter = 0.25 if len(self.module.kernel_size) > 1 else 0.5
        if self.depthwise:
            return 1 - alpha_in * (1 - quarter)
        cost = {
            PathName.HIGH_TO_HIGH: 1.0,
            PathName.HIGH_TO_LOW: quarter,
            PathName.LOW_TO_HIGH: 1.0 if self.low_to_high_costs_full else quarter,
            PathName.LOW_TO_LOW: quarter,
        }
        both = 0 < alpha_in < 1 and 0 < alpha_out < 1 and max(self.module.kernel_size) == 1
        into, out = {"high": 1 - alpha_in, "low": alpha_in}, {"high": 1 - alpha_out, "low": alpha_out}
        paths = [name for name in cost if has_path(self.exchange if both else "full", name)]
        return sum(cost[name] * into[name.source] * out[name.target] for name in paths)

    def _transposed_share(self, alpha_in: float, alpha_out: float) -> float:
        """Like ``share``: every path by its taps (``octify.kernels.transposed``), under both schemes."""
        axes = transposed_axes(self.module)
        to_high, to_low, low = (
            path_share(name, axes)
            for name in (PathName.LOW_TO_HIGH, PathName.HIGH_TO_LOW, PathName.LOW_TO_LOW)
        )
        if self.depthwise:
            return 1 - alpha_in * (1 - low)
        return (
            (1 - alpha_in) * (1 - alpha_out)
            + to_high * alpha_in * (1 - alpha_out)
            + to_low * (1 - alpha_in) * alpha_out
            + low * alpha_in * alpha_out
        )


def _after_convolution(traced: Traced) -> dict[str, bool]:
    """For every node, whether it depends on some convolution."""
    after: dict[str, bool] = {}
    for node in traced.module.graph.nodes:
        is_conv = isinstance(traced.submodule(node), ConvNd)
        inner = node.op == "placeholder" and not traced.reads_input(node)
        after[node.name] = inner or is_conv or any(after[n.name] for n in node.all_input_nodes)
    return after


def _input_size(traced: Traced) -> int:
    """The smaller side of the first image; of the largest one where parts see it at several sizes."""
    placeholders = [n for n in traced.module.graph.find_nodes(op="placeholder") if traced.reads_input(n)]
    shapes = [shape for n in placeholders if (shape := traced.shape(n)) is not None and len(shape) >= 3]
    sizes = [min(shape[2:]) for shape in shapes] or [1]
    return sizes[0] if traced.parts is None else max(sizes)


def collect(traced: Traced, layout: Layout) -> list[Conv]:
    """The convolutions that the layout walk accepted, in order of execution."""
    whole = _input_size(traced)
    after = _after_convolution(traced)
    by_name = {node.name: node for node in traced.module.graph.nodes}
    calls: dict[str, list[ConvNode]] = {}
    for conv in layout.convs:
        calls.setdefault(conv.path, []).append(conv)
    convs = []
    for path, group in calls.items():
        nodes = [by_name[call.node] for call in group]
        shapes = [
            layout.map_shape(node.name, shape) for node in nodes if (shape := traced.shape(node)) is not None
        ]
        size = max(min(shape[2:]) for shape in shapes)
        module = conv_form(traced.submodule(nodes[0]), len(shapes[0]) - 2)
        convs.append(
            Conv(
                path,
                module,
                tuple(group),
                sum(traced.facts[node.name].macs for node in nodes),
                size,
                max(1, round(whole / size)),
                not any(after[n.name] for node in nodes for n in node.all_input_nodes),
                all(is_vector(shape) for shape in shapes),
                tuple(_sizes_read(traced, layout, nodes)),
                shapes[0][0],
                clipped=any(_is_clipped(traced, node) for node in nodes),
            )
        )
    return convs


_CLIPS = (nn.Hardtanh, nn.LeakyReLU)  # nn.ReLU6 is an nn.Hardtanh
_CLIPPING = frozenset({F.relu6, F.hardtanh, F.leaky_relu})


def _is_clipped(traced: Traced, node: fx.Node) -> bool:
    """Return whether ReLU6 or its like follows ``node``, or a norm behind it (which may have it built in)."""
    for user in node.users:
        module = traced.submodule(user)
        if isinstance(module, _CLIPS) or user.target in _CLIPPING:
            return True
        if is_batch_norm(module):
            return isinstance(getattr(module, "act", None), _CLIPS) or _is_clipped(traced, user)
    return False


def _sizes_read(traced: Traced, layout: Layout, calls: Sequence[fx.Node]) -> Iterator[tuple[int, ...]]:
    for call in calls:
        source = call.all_input_nodes[0]
        shape = traced.shape(source)
        if shape is not None:
            yield layout.map_shape(source.name, shape)[2:]


def facts_for_rules(convs: list[Conv], layout: Layout) -> Mapping[str, ConvFacts]:
    """Facts for the rules, by path; ``layout`` must be the one without any policy."""
    size: dict[int, int] = {}
    reduction: dict[int, int] = {}
    read_by: dict[int, int] = {}
    writers: dict[int, set[str]] = {}
    depthwise: set[int] = set()
    for conv in convs:
        for call in conv.calls:
            for s in () if conv.vector else layout.sets(call.ids_in):
                size[s] = max(conv.size, size.get(s, 0))
                reduction[s] = min(conv.reduction, reduction.get(s, conv.reduction))
                read_by[s] = max(*conv.module.kernel_size, read_by.get(s, 0))
            if conv.depthwise:
                depthwise.update(layout.sets(call.ids_out))
            else:
                for s in () if conv.vector else layout.sets(call.ids_out):
                    writers.setdefault(s, set()).add(conv.path)
    facts = {}
    for conv in convs:
        into = {s for call in conv.calls for s in layout.sets(call.ids_in)}
        out = {s for call in conv.calls for s in layout.sets(call.ids_out)}
        module = conv.module
        facts[conv.path] = ConvFacts(
            path=conv.path,
            op="depthwise" if conv.depthwise else "grouped" if module.groups > 1 else "dense",
            kernel=max(module.kernel_size),
            groups=module.groups,
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            size=max((size[s] for s in out if s in size), default=conv.size),
            reduction=min((reduction[s] for s in out if s in size), default=conv.reduction),
            stem=conv.stem,
            reads_depthwise=bool(into & depthwise),
            feeds_depthwise=bool(out & depthwise),
            feeds_kernel=max((read_by[s] for s in out if s in read_by), default=0),
            residual=any(len(writers.get(s, ())) > 1 for s in out),
        )
    return facts

"""Where calibration works: a converted convolution with what follows it before information is lost.

A site is ``act(affine(conv(x)) + skips)``: the convolution, the BatchNorm folded into it, the
other operands of residual additions, and the activation behind them. Each part may be missing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.calibrate.activation import Activation
from octify.emitter import Value
from octify.nn import OctaveChannelwise, OctaveConv
from octify.nn.channels import split_indices
from octify.nn.conv import OctaveConv1d, OctaveConv2d, OctaveConv3d
from octify.rewrite import Rewritten
from octify.trace import Traced

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_EVAL_NOTHING = frozenset(
    {
        "Identity",
        "Dropout",
        "Dropout1d",
        "Dropout2d",
        "Dropout3d",
        "DropPath",
        "StochasticDepth",
        "AlphaDropout",
    }
)
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Skip:
    """The other operand of a residual addition: the original's node, the converted model's branches."""

    original: fx.Node
    value: Value


@dataclass(frozen=True)
class Site:
    """A convolution to be fitted.

    norm:
        The original's BatchNorm behind it, or None; ``norm_high`` and ``norm_low`` are the converted ones.
    """

    path: str
    node: fx.Node
    call: fx.Node
    conv: OctaveConv
    low_out: tuple[int, ...]
    high_out: tuple[int, ...]
    norm: nn.Module | None
    norm_high: nn.Module | None
    norm_low: nn.Module | None
    skips: tuple[Skip, ...]
    activation: Activation | None
    channels_last: bool = False

    def as_map(self, value: Tensor) -> Tensor:
        """One of the original's values as (N, C, *size)."""
        return value.movedim(-1, 1) if self.channels_last else value


def sites(
    traced: Traced, rewritten: Rewritten, order: Sequence[fx.Node]
) -> tuple[list[Site], dict[str, str]]:
    """Sites in the order of repair, and the converted convolutions that have none, with reasons."""
    place = {node: i for i, node in enumerate(order)}
    calls: dict[str, list[fx.Node]] = {}
    for node in rewritten.module.graph.find_nodes(op="call_module"):
        calls.setdefault(str(node.target), []).append(node)
    found: list[Site] = []
    left: dict[str, str] = {}
    for node in order:
        if node.op != "call_module" or not isinstance(traced.submodule(node), nn.Module):
            continue
        path = str(node.target)
        made = calls.get(path, [])
        conv = rewritten.module.get_submodule(path) if made else None
        if not isinstance(conv, OctaveConv):
            continue
        if len(made) > 1:
            left[path] = "it is called at several places"
        elif type(conv) not in _FITTED:
            left[path] = f"there is no fit for {type(conv).__name__}"
        elif any(
            not isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)) for part in conv.children()
        ):
            left[path] = "its groups have different numbers of low channels"
        else:
            found.append(_site(traced, rewritten, node, made[0], conv, place))
    return found, left


_FITTED = (OctaveConv1d, OctaveConv2d, OctaveConv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _site(
    traced: Traced,
    rewritten: Rewritten,
    node: fx.Node,
    call: fx.Node,
    conv: OctaveConv,
    place: Mapping[fx.Node, int],
) -> Site:
    high, low = split_indices(conv.out_channels, conv.low_out)
    norm_node = only_user(node)
    norm = traced.submodule(norm_node) if norm_node is not None else None
    act: Callable[[Tensor], Tensor] | None = None
    parts: tuple[nn.Module | None, nn.Module | None] = (None, None)
    current = node
    if norm_node is not None and norm is not None and is_affine_norm(norm):
        current = norm_node
        made = rewritten.module.get_submodule(str(norm_node.target))
        parts = (made.high, made.low) if isinstance(made, OctaveChannelwise) else (made, None)
        act = inner_activation(norm)
    else:
        norm = None
    skips: list[Skip] = []
    while act is None:
        user = only_user(current)
        if user is None:
            break
        if _does_nothing(traced, user):
            current = user
        elif (skip := _skip(traced, rewritten, user, current, place, place[node])) is not None:
            skips.append(skip)
            current = user
        else:
            act = elementwise(traced, user)
            break
    return Site(
        str(node.target),
        node,
        call,
        conv,
        low,
        high,
        norm,
        parts[0],
        parts[1],
        tuple(skips),
        None if act is None else Activation.of(act),
        isinstance(traced.submodule(node), nn.Linear),
    )


def is_affine_norm(module: nn.Module) -> bool:
    """Whether a module is, in eval mode, a fixed affine map per channel (and maybe an activation)."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS) and hasattr(
        module, "eps"
    )


def only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _does_nothing(traced: Traced, node: fx.Node) -> bool:
    return type(traced.submodule(node)).__name__ in _IN_EVAL_NOTHING


def inner_activation(norm: nn.Module) -> Callable[[Tensor], Tensor] | None:
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) and not isinstance(act, nn.Identity) else None


def _skip(
    traced: Traced,
    rewritten: Rewritten,
    add: fx.Node,
    branch: fx.Node,
    place: Mapping[fx.Node, int],
    now: int,
) -> Skip | None:
    """The operand added to ``branch``, if it is a map of the same size that is repaired before."""
    if add.target not in _ADDITIONS or len(add.args) < 2 or add.kwargs:
        return None
    index = 1 if add.args[0] is branch else 0
    other = add.args[index]
    if not isinstance(other, fx.Node) or other is branch or place[other] > now:
        return None
    if traced.shape(other) != traced.shape(add) or traced.shape(branch) != traced.shape(add):
        return None
    sums = rewritten.values[add.name]

    def operand(node: fx.Node | None) -> fx.Node | None:
        chosen = None if node is None else node.args[index]
        return chosen if isinstance(chosen, fx.Node) else None

    return Skip(other, Value(operand(sums.high), operand(sums.low), sums.mask))


def elementwise(traced: Traced, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
    """The activation that ``node`` applies, as a function of one tensor; None if it is none."""
    from octify.ops import table

    op = table().find(traced, node)
    if op is None or op.name != "elementwise" or len(node.all_input_nodes) != 1:
        return None
    module = traced.submodule(node)
    if module is not None:
        return module
    args, kwargs = node.args[1:], dict(node.kwargs)
    kwargs.pop("input", None)
    if node.op == "call_method":
        name = str(node.target).removesuffix("_")
        return lambda x: getattr(x, name)(*args, **kwargs)
    target: Any = node.target
    return lambda x: target(x.clone(), *args, **kwargs)

"""Options of a calibration, checked once at the door."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from octify.errors import OctifyError

Effort = Literal["norm", "fast", "standard", "thorough"]
ChannelOrder = Literal["last", "energy", "greedy"]
EFFORTS: tuple[Effort, ...] = ("norm", "fast", "standard", "thorough")
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("last", "energy", "greedy")
_ORDER_OF: Mapping[str, ChannelOrder] = {
    "norm": "energy",
    "fast": "energy",
    "standard": "greedy",
    "thorough": "greedy",
}


@dataclass(frozen=True)
class _Bound:
    """Bound that targets of one kind set.

    name:
        The bounded quantity in messages.
    article:
        The same with an article.
    holds:
        Whether a value is possible; ``why`` says which are, and ``hint`` what to type.
    """

    name: str
    article: str
    holds: Callable[[float], bool]
    why: str
    hint: str


_BOUNDS: Mapping[str, _Bound] = {
    "macs": _Bound(
        "MACs",
        "the MACs",
        lambda value: 0 < value < 1,
        "it is a share of the original's MACs, between 0 and 1",
        "--target-macs 0.6",
    ),
    "error": _Bound(
        "error",
        "the error",
        lambda value: value > 0 and math.isfinite(value),
        "it is a relative output error above 0",
        "--target-error 0.1",
    ),
    "drop": _Bound(
        "drop",
        "the metric's drop",
        lambda value: value >= 0 and math.isfinite(value),
        "it is how much worse than the original's the metric may be: 0 or more, in its own unit",
        "--target-drop 0.01",
    ),
    "latency": _Bound(
        "latency",
        "the latency",
        lambda value: value > 0 and math.isfinite(value),
        "it is a number of milliseconds per call above 0",
        "--target-latency 5",
    ),
}


@dataclass(frozen=True)
class Target:
    """Upper bound that a search keeps.

    It is one on the share of the original's MACs, the relative output error, the drop of a metric, or the
    milliseconds per call.
    """

    kind: Literal["macs", "error", "drop", "latency"]
    value: float

    @property
    def name(self) -> str:
        """Name of the bounded quantity in messages."""
        return _BOUNDS[self.kind].name

    @classmethod
    def of(
        cls,
        macs: float | None,
        error: float | None,
        drop: float | None = None,
        latency: float | None = None,
    ) -> Target | None:
        """Target of the four options; None when all are None. Raises OctifyError."""
        values = {"macs": macs, "error": error, "drop": drop, "latency": latency}
        targets = [cls(kind, value) for kind, value in values.items() if value is not None]  # type: ignore[arg-type]
        if not targets:
            return None
        first, *others = targets
        if others:
            rest = " or ".join(_BOUNDS[each.kind].article for each in others)
            raise OctifyError(
                f"a target for {_BOUNDS[first.kind].article} excludes one for {rest}",
                why="the cheapest model of an error or a drop, or the best of some MACs or time: one decides",
                hint="with one target, --max-error and --max-drop check the rest",
            )
        bound = _BOUNDS[first.kind]
        if not bound.holds(first.value):
            raise OctifyError(
                f"the target for {bound.article} is {first.value:g}", why=bound.why, hint=bound.hint
            )
        return first


@dataclass(frozen=True)
class Calibration:
    """Options of a calibration, which runs on the device of the model.

    Parameters
    ----------
    data:
        An iterable of inputs (``octify.calibrate.inputs.images.gather`` says which), or ``"synthetic"``.
    effort:
        ``"norm"`` (BatchNorm statistics only), ``"fast"`` (least squares, channels by energy),
        ``"standard"`` (channels chosen by the error after refitting, hinge refits, and as much
        distillation as takes minutes) or ``"thorough"`` (the same with more distillation).
    channel_order:
        ``"last"``, ``"energy"`` or ``"greedy"``; None for the order of the effort.
    seed:
        Seed for calibration's random choices.
    target:
        Bound for a search of alphas; None for the alphas of the plan.

    Raises OctifyError for words that are no effort, order or data.
    """

    data: Iterable[Any] | str
    effort: str = "standard"
    channel_order: str | None = None
    seed: int = 0
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise OctifyError(f"there is no effort {self.effort!r}", hint=f"use one of {', '.join(EFFORTS)}")
        if self.order not in CHANNEL_ORDERS:
            raise OctifyError(
                f"there is no channel order {self.order!r}", hint=f"use one of {', '.join(CHANNEL_ORDERS)}"
            )
        if isinstance(self.data, str) and self.data != "synthetic":
            raise OctifyError(
                f"calibration data {self.data!r} is not known",
                why='it is an iterable of inputs, or the word "synthetic"',
                hint="octify convert --calib reads folders and files",
            )

    @property
    def order(self) -> str:
        """Channel order: the one that was chosen, or that of the effort."""
        return self.channel_order or _ORDER_OF[self.effort]

    @property
    def synthetic(self) -> bool:
        """True if the inputs are made from the network's BatchNorm statistics."""
        return isinstance(self.data, str)

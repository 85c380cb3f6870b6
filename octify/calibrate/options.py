"""Options of a calibration, checked once at the door."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
class Target:
    """Upper bound on the share of the original's MACs, the relative output error, or a metric's drop."""

    kind: Literal["macs", "error", "drop"]
    value: float

    @property
    def name(self) -> str:
        """Name of the bounded quantity in messages."""
        return {"macs": "MACs", "error": "error", "drop": "drop"}[self.kind]

    @classmethod
    def of(cls, macs: float | None, error: float | None, drop: float | None = None) -> Target | None:
        """Target of the three options; None when all are None. Raises OctifyError."""
        if sum(each is not None for each in (macs, error, drop)) > 1:
            raise OctifyError(
                "a target for the MACs excludes one for the error or for the metric's drop"
                if macs is not None
                else "a target for the error excludes one for the metric's drop",
                why="the cheapest model of an error or a drop, or the best of some MACs: one decides",
                hint="with one target, --max-error and --max-drop check the rest",
            )
        if drop is not None and not (drop >= 0 and math.isfinite(drop)):
            raise OctifyError(
                f"the target for the metric's drop is {drop:g}",
                why="it is how much worse than the original's the metric may be: 0 or more, in its own unit",
                hint="--target-drop 0.01",
            )
        if macs is not None and not 0 < macs < 1:
            raise OctifyError(
                f"the target for the MACs is {macs:g}",
                why="it is a share of the original's MACs, between 0 and 1",
                hint="--target-macs 0.6",
            )
        if error is not None and not (error > 0 and math.isfinite(error)):
            raise OctifyError(
                f"the target for the error is {error:g}",
                why="it is a relative output error above 0",
                hint="--target-error 0.1",
            )
        if macs is not None:
            return cls("macs", macs)
        if drop is not None:
            return cls("drop", drop)
        return None if error is None else cls("error", error)


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

"""Plans by measured time, as plain data: how they are timed, and the verdict of whole models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from octify.errors import OctifyError
from octify.kernels.choices import Scheme

RUNTIMES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")


@dataclass(frozen=True)
class TimingSettings:
    """Settings of the timing.

    runtime:
        One of ``RUNTIMES``. Operators of those in int8 are priced in float; whole models are timed in int8.
    threads:
        Number of threads of one operator.
    kernels:
        Kernels of the plans.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    kernels: Scheme = "paper"

    def check(self) -> None:
        """Raise OctifyError for a runtime that plans cannot be timed in."""
        if self.runtime not in RUNTIMES:
            raise OctifyError(
                f"plans cannot be timed in {self.runtime!r}",
                hint=f"the runtimes of latency are {', '.join(RUNTIMES)}",
            )

    @property
    def library(self) -> str:
        """The library whose operators are priced."""
        return self.runtime.removesuffix("-int8")


@dataclass(frozen=True)
class PlanTiming:
    """Median times of the original and of the fastest plan, in interleaved rounds.

    dense_ms, octave_ms:
        Milliseconds per call.
    ratio, low, high:
        The original's time over the plan's, and its 95 % interval.
    plans:
        Number of plans that were timed.
    kept:
        Whether the plan is used: only where the whole interval is above 1.
    """

    runtime: str
    threads: int
    batch: int
    rounds: int
    plans: int
    dense_ms: float
    octave_ms: float
    ratio: float
    low: float
    high: float
    kept: bool

    @property
    def place(self) -> str:
        """The runtime and its threads."""
        return f"{self.runtime}, {self.threads} thread{'s' if self.threads > 1 else ''}, batch {self.batch}"

    @property
    def figures(self) -> str:
        """Both times and their ratio."""
        return (
            f"{self.dense_ms:.2f} ms dense, {self.octave_ms:.2f} ms octave: "
            f"{self.ratio:.2f} times as fast (95 %: {self.low:.2f} to {self.high:.2f})"
        )

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        of = f"the fastest of {self.plans} plans" if self.plans > 1 else "the plan"
        kept = "" if self.kept else ". That is not surely faster, so everything stays dense"
        return f"Timed whole in {self.place}, {self.rounds} rounds, {of}: {self.figures}{kept}."

    @property
    def reason(self) -> str:
        """Why a convolution stays dense where the plan is not kept."""
        return f"the whole model was not surely faster in {self.place}: {self.figures}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, times in milliseconds."""
        return asdict(self)

"""Training looked at on the way: its best step stays, and what became of it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from octify.calibrate.inputs.items import Row
from octify.compare.outputs import Output, compare, outputs, typical_ratio

_LATE = 0.7  # of a training, after which the first gain does not come any more
_WRONG = 2.0  # times the squared error before


@dataclass(frozen=True)
class Distilled:
    """Outcome of a distillation.

    steps, planned:
        Taken, and how many there were to be: 0 where too few were affordable.
    kept:
        The step whose weights stayed; 0 if those from before did.
    seconds:
        As ``Clock`` counts them.
    before, after:
        Relative output error on the inputs kept aside; None if there are none.
    spoilt:
        How often the weights were looked at and not finite, so that they could not stay.
    """

    steps: int
    planned: int
    kept: int
    seconds: float
    before: float | None = None
    after: float | None = None
    spoilt: int = 0

    def sentence(self) -> str:
        """For the report."""
        if not self.planned:
            return f"no distillation: its first {self.steps} steps took {self.seconds:.0f} s"
        start = f"distillation: {self.steps} of {self.planned} steps in {self.seconds:.0f} s"
        if self.spoilt:
            start += ", after some of which the learned weights were not finite and were not kept"
            if not self.kept:
                return f"{start}, undone: the weights from before stay"
        if self.before is None or self.after is None:
            which = f"step {self.kept}" if self.spoilt else "the last one"
            return f"{start}; {which} stays, as no inputs were kept aside to judge it"
        if not self.kept:
            return f"{start}, undone: no step had a smaller error on the inputs kept aside"
        return (
            f"{start}; step {self.kept} stays, with a relative output error of {self.after:.4f} instead of"
            f" {self.before:.4f} on the inputs kept aside"
        )


class Judge:
    """Looks at a student with other parameters on inputs kept aside, and keeps the best.

    The score is the geometric mean of their squared error as a whole and of what is typical of one of them:
    of eight, one bad one is most of the whole. (It once undid a training that took test images from .31 to
    .20.)

    ``in_vain`` counts the last looks that found nothing better. Large steps at first are often no gain, and
    the small ones at the end are, so a training is hopeless only late, or where it has gone quite wrong.
    """

    def __init__(self, student: nn.Module, held_out: Sequence[Row], reference: Sequence[Output]) -> None:
        self.student, self.held_out, self.reference = student, held_out, reference
        self.in_vain = 0
        self._spoilt = 0
        self._start = outputs(student, held_out) if held_out else []
        self._before = self._after = self._error(self._start) if held_out else None
        self._last, self._least = 1.0, 1.0
        self._best: Mapping[str, Tensor] | None = None
        self._step = 0

    @torch.no_grad()
    def look(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Judge the parameters ``values`` of the student, which are those after ``step``.

        Values that are not finite never stay, whatever the outputs say: a masked class hides them.
        """
        if not all(_stays_finite(self.student.get_parameter(name), new) for name, new in values.items()):
            self._spoilt += 1
            self.in_vain += 1
            return
        if not self.held_out:
            self._best, self._step = values, step
            return
        old = {name: self.student.get_parameter(name).clone() for name in values}
        _write(self.student, values)
        results = outputs(self.student, self.held_out)
        _write(self.student, old)
        self._last = score = self._score(results)
        if score < self._least:
            self._least, self._best, self._step = score, values, step
            self._after, self.in_vain = self._error(results), 0
        else:
            self.in_vain += 1

    def hopeless(self, share: float) -> bool:
        """Return whether to stop, with a ``share`` of the training done: further steps will not help."""
        return self._best is None and self.in_vain > 0 and (self._last > _WRONG or share >= _LATE)

    @torch.no_grad()
    def kept(self, steps: int, planned: int, seconds: float) -> Distilled:
        """Write the best parameters into the student; what became of ``steps`` steps."""
        if self._best is not None:
            _write(self.student, self._best)
        return Distilled(steps, planned, self._step, seconds, self._before, self._after, self._spoilt)

    def _score(self, results: Sequence[Output]) -> float:
        """Below 1 where the errors are smaller than before."""
        assert self._before is not None
        whole = (self._error(results) / max(self._before, 1e-30)) ** 2
        typical = typical_ratio(self.reference, self._start, results)
        return math.inf if math.isnan(whole * typical) else math.sqrt(whole * typical)

    def _error(self, results: Sequence[Output]) -> float:
        return compare(self.reference, results, held_out=True).relative_error


def _stays_finite(before: Tensor, learned: Tensor) -> bool:
    """Return whether what was learned is finite wherever the model's own parameter is."""
    return bool((torch.isfinite(learned) | ~torch.isfinite(before)).all())


def _write(student: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        student.get_parameter(name).copy_(value)

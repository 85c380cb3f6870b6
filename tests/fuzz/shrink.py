"""The smallest program that still fails, by leaving out steps."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from tests.fuzz.checks import Case, Failure, run_check
from tests.fuzz.program import Program, Step


def shrunk(case: Case, failure: Failure, seconds: float = 60.0) -> tuple[Case, Failure]:
    """A smaller case with the same kind of failure, and that failure."""
    end = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < end:
        progress = False
        for smaller in _smaller(case.program):
            if time.monotonic() > end:
                break
            trial = replace(case, program=smaller)
            found = run_check(failure.check, trial) if _works(smaller) else None
            if found is not None and not found.refused and _kind(found) == _kind(failure):
                case, failure, progress = trial, found, True
                break
    return case, failure


def _smaller(program: Program) -> list[Program]:
    """Programs with a step less, the last first, and with the plainest ending."""
    trials = [program.without(i) for i in reversed(range(len(program.steps)))]
    last = program.steps[-1].result if program.steps else "x"
    if program.ending.idiom != "ending/map":
        trials.append(replace(program, ending=Step("ending/map", (f"return {last}",), "out", last)))
    for index, step in enumerate(program.steps):
        if len(step.after) > 1:
            for line in step.after:
                kept = replace(step, after=tuple(other for other in step.after if other != line))
                steps = (*program.steps[:index], kept, *program.steps[index + 1 :])
                trials.append(replace(program, steps=steps))
    return trials


def _works(program: Program) -> bool:
    try:
        model, x = program.build()
        with torch.no_grad():
            model(x)
    except Exception:
        return False
    return True


def _kind(failure: Failure) -> tuple[str, str]:
    """What must stay the same: the check, and the exception or that the answers differ."""
    if " off by " in failure.what:
        return failure.check, "off"
    return failure.check, failure.what.partition(":")[0][:25]

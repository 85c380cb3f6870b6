"""Drawing cases and checking them: one number, one case, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz.catalogue import ENDINGS, SHAPES, TEMPLATES
from tests.fuzz.checks import CHECKS, Case, Failure, run_check
from tests.fuzz.draw import Draw
from tests.fuzz.operations import draw_operation
from tests.fuzz.report import Found
from tests.fuzz.shrink import shrunk

_EVEN = {1: [(8,), (16,), (12,)], 2: [(8, 8), (8, 12), (16, 8)], 3: [(4, 4, 4), (4, 8, 4)]}
_ODD = {1: [(9,), (13,)], 2: [(9, 9), (7, 8), (11, 13)], 3: [(5, 5, 4)]}
_ALPHAS = (0.25, 0.5, 0.5, 0.75)
_CONVOLUTION = "block/convolution"


@dataclass(frozen=True)
class Settings:
    """What to draw from and how much to check."""

    seed: int
    idioms: tuple[str, ...]
    onnx_every: int = 20
    shrink_seconds: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    number: int
    idioms: tuple[str, ...]
    found: tuple[Found, ...] = ()
    refused: tuple[Failure, ...] = ()


def draw_case(settings: Settings, number: int) -> Case | None:
    """The case of a number; None where nothing came of the draw."""
    chance = random.Random(f"octify {settings.seed} {number}")
    dims = chance.choice([2, 2, 2, 2, 1, 3])
    odd = "shape/odd sizes" in settings.idioms and chance.random() < 0.15
    alphas = (*_ALPHAS, 1.0) if "shape/alpha 1" in settings.idioms else _ALPHAS
    size = chance.choice((_ODD if odd else _EVEN)[dims])
    draw = Draw(f"{settings.seed} {number}", dims, size, size_one="shape/size one" in settings.idioms)
    steps = [idiom for idiom in settings.idioms if idiom not in ENDINGS and idiom not in SHAPES]
    endings = [idiom for idiom in settings.idioms if idiom in ENDINGS] or ["ending/map"]
    draw.attempt(_CONVOLUTION, TEMPLATES[_CONVOLUTION])
    for _ in range(chance.randint(1, 5)):
        _add(draw, chance.choice(steps))
        if chance.random() < 0.5:
            draw.attempt(_CONVOLUTION, TEMPLATES[_CONVOLUTION])
    for _ in range(4):
        idiom = chance.choice(endings)
        program = draw.program(idiom, ENDINGS[idiom])
        if program is not None:
            return Case(program, chance.choice(alphas))
    return None


def _add(draw: Draw, idiom: str) -> None:
    if idiom.startswith("op/"):
        draw_operation(draw, idiom)
        return
    for _ in range(4):
        if draw.attempt(idiom, TEMPLATES[idiom]):
            return


def check_number(settings: Settings, number: int, checks: Sequence[str] = tuple(CHECKS)) -> Outcome:
    """Draw the case of a number and try every promise on it."""
    case = draw_case(settings, number)
    if case is None:
        return Outcome(number, ())
    found: list[Found] = []
    refused: list[Failure] = []
    told: list[str] = []
    for name in checks:
        if name == "onnx" and (not settings.onnx_every or number % settings.onnx_every):
            continue
        failure = run_check(name, case)
        if failure is None:
            continue
        if failure.refused:
            refused.append(failure)
            continue
        if any(failure.what == other for other in told):
            continue  # the same exception on another way
        told.append(failure.what)
        smaller, why = shrunk(case, failure, settings.shrink_seconds)
        found.append(Found(number, smaller, why, smaller.program.idioms))
    return Outcome(number, case.program.idioms, tuple(found), tuple(refused))


def of_signal(settings: Settings, number: int, by: int) -> Outcome:
    """The outcome of a case that ended its process by a signal."""
    case = draw_case(settings, number)
    if case is None:
        return Outcome(number, ())
    found = Found(number, case, Failure("exact", f"it ended the process by signal {by}"), case.program.idioms)
    return Outcome(number, case.program.idioms, (found,))

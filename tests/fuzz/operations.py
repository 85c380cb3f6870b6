"""One idiom for every family of operations: a new family is drawn as soon as it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tests.fuzz.arguments import CALLS, MODULES
from tests.fuzz.draw import Draw
from tests.fuzz.spelling import Target, targets

_TRIES = 12  # of an operation on other values and with other arguments
_SIZES = {1: (8,), 2: (8, 8), 3: (4, 4, 4)}


@lru_cache(maxsize=1)
def families() -> dict[str, tuple[Target, ...]]:
    """The registered operations by the name of their family's idiom, ``op/convolution``."""
    made: dict[str, list[Target]] = {}
    for target in targets():
        made.setdefault(f"op/{target.family}", []).append(target)
    return {name: tuple(members) for name, members in made.items()}


def draw_operation(draw: Draw, idiom: str) -> bool:
    """Add an operation of a family; whether one was found that works on the values there are."""
    return any(draw_target(draw, draw.random.choice(families()[idiom]), idiom) for _ in range(3))


def draw_target(draw: Draw, target: Target, idiom: str) -> bool:
    """Add a call of ``target``; whether it works."""
    choices = list(templates(target))
    return any(draw.attempt(idiom, draw.random.choice(choices)) for _ in range(_TRIES))


def templates(target: Target) -> Iterator[str]:
    """The steps that call ``target``."""
    top = f"top: {target.top}\n" if target.top else ""
    for arguments in _arguments(target):
        if "$y" in arguments:
            written = f".{target.text}" if target.kind == "method" else target.text
            if target.kind == "method" and "$T(" in arguments:
                arguments = arguments.replace("$T($x, ", "$x.$T(").replace("$T($x)", "$x.$T()")
                if "$T($x" in arguments or "=$T" in arguments.replace(" ", ""):
                    # $T of another expression: as a method of it
                    arguments = _as_method(arguments)
                written = target.text
            yield top + arguments.replace("$T", written)
        elif target.kind == "module":
            yield f"{top}init: self.$m = {target.text}({arguments})\n$y = self.$m($x)"
        elif target.kind == "method":
            yield f"{top}$y = $x.{target.text}({arguments})"
        else:
            yield f"{top}$y = {target.text}($x{', ' if arguments else ''}{arguments})"


def without_generator() -> list[Target]:
    """The registered operations that no template can draw, on no map of one to three dimensions."""
    left = [target for members in families().values() for target in members]
    for dims, size in _SIZES.items():
        missing = []
        for number, target in enumerate(left):
            draw = Draw(f"{dims}/{number}", dims, size)
            draw.attempt("conv", "init: self.$m = nn.Conv$d($c, 8, 3, padding=1)\n$y = self.$m($x)")
            if not any(draw_target(draw, target, "op") for _ in range(2)):
                missing.append(target)
        left = missing
    return left


def _arguments(target: Target) -> list[str]:
    known = MODULES if target.kind == "module" else CALLS
    name = target.text.rpartition(".")[2].rstrip("_")
    given = known.get(name) or known.get(target.short)
    if given is not None:
        return given
    return ["", "$c"] if target.kind == "module" else ["", "$o"]


def _as_method(step: str) -> str:
    """``$y = $T(expression)`` as ``$y = (expression).name()``."""
    before, _, rest = step.partition("$T(")
    depth, end = 1, 0
    while depth and end < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    return f"{before}({rest[: end - 1]}).$T(){rest[end:]}"

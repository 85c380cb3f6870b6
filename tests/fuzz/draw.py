"""Drawing a program: statements are run as they are drawn, so that what is drawn is known to work."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fuzz.program import Program, Step

_LARGEST = 1e3  # of the values: more would make the rounding of one branch hide another
_MOST_ELEMENTS = 20_000
_MOST_CHANNELS = 40
_CHOICE = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]")
_PLACE = {"init:": "init", "after:": "after", "top:": "top"}


class Unfit(Exception):  # noqa: N818 - a draw that did not work out, not an error
    """The idiom does not fit the values that there are."""


class Draw:
    """A network in the making: its live module and the values of its variables.

    Parameters
    ----------
    seed:
        Decides everything that is drawn.
    dims:
        Number of spatial dimensions, 1 to 3.
    size:
        Spatial sizes of the input; even or odd.
    size_one:
        Whether a map may shrink to one row or column.
    """

    def __init__(self, seed: str, dims: int, size: Sequence[int], *, size_one: bool = True) -> None:
        self.random = random.Random(seed)
        self.dims = dims
        self.size_one = size_one
        self.shape = (2, 3, *size)
        self.steps: list[Step] = []
        self.net = nn.Module().double().eval()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        self.env: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "self": self.net, "model": self.net}
        self.values: dict[str, Tensor] = {"x": x}
        self.count = 0

    def maps(self) -> list[str]:
        """Variables (N, C, *size), the latest last."""
        return [name for name, value in self.values.items() if value.ndim == self.dims + 2]

    def attempt(self, idiom: str, template: str, **words: str) -> bool:
        """Add the step that ``template`` says, if it works on some value; whether it did."""
        try:
            step = self._filled(idiom, template, words)
            values = self._ran(step)
        except Exception:  # whatever torch raises for arguments that do not fit
            return False
        self.values = values
        self.steps.append(step)
        self.count += 1
        return True

    def program(self, idiom: str, template: str) -> Program | None:
        """The program that ends as ``template`` says; None where that does not work."""
        try:
            ending = self._filled(idiom, template, {})
            program = Program(tuple(self.steps), ending, self.shape, self.random.randrange(10**6))
            model, x = program.build()
            with torch.no_grad():
                model(x)
        except Exception:
            return None
        return program

    def _filled(self, idiom: str, template: str, words: Mapping[str, str]) -> Step:
        names = self.maps()
        if not names:
            raise Unfit
        # Later values more often: a network is mostly a chain.
        operand = names[-1] if self.random.random() < 0.7 else self.random.choice(names)
        channels = self.values[operand].shape[1]
        same = [n for n in names if self.values[n].shape == self.values[operand].shape]
        alike = [n for n in names if self.values[n].shape[2:] == self.values[operand].shape[2:]]
        result = f"v{self.count}"
        text = _chosen(template, self.random)
        known = {
            "x": operand,
            "y": result,
            "m": f"m{self.count}",
            "o": self.random.choice(same),
            "p": self.random.choice(alike),
            "c": str(channels),
            "g": str(self.random.choice([g for g in range(1, channels + 1) if channels % g == 0])),
            "k": str(self.dims),
            "d": f"{self.dims}d",
            "axes": str(tuple(range(2, self.dims + 2))),
            "ones": ", ".join("1" for _ in range(self.dims)),
            "size": str(tuple(self.values[operand].shape[2:])),
            **words,
        }
        text = string.Template(text).safe_substitute(known)
        return _parsed(idiom, text, result, operand)

    def _ran(self, step: Step) -> dict[str, Tensor]:
        """The variables after ``step``; raises where it does not work or makes an unusable value."""
        values = {name: value.clone() for name, value in self.values.items()}
        env = dict(self.env)
        with torch.no_grad(), torch.random.fork_rng():
            torch.default_generator.manual_seed(len(self.steps))
            exec("\n".join(step.top), env)
            exec("\n".join(step.init), env)
            self.net.double().eval()
            exec("\n".join(step.after), env)
            env |= values  # only now: a constructor does not see them
            exec("\n".join(step.forward), env)
        _check(env[step.result])
        if not self.size_one and 1 in env[step.result].shape[2:]:
            raise Unfit
        values[step.result] = env[step.result]
        for name in self.values:
            values[name] = env[name]
            _check(env[name])
        self.env |= {name: env[name] for name in env if name not in values}
        return values


def _chosen(template: str, chance: random.Random) -> str:
    """``template`` with one of the choices of every ``[[one|other]]``, the innermost first."""
    while match := _CHOICE.search(template):
        choice = chance.choice(match.group(1).split("|"))
        template = template[: match.start()] + choice + template[match.end() :]
    return template


def _parsed(idiom: str, text: str, result: str, operand: str) -> Step:
    places: dict[str, list[str]] = {"init": [], "after": [], "top": [], "forward": []}
    for line in text.strip("\n").splitlines():
        word, _, rest = line.partition(" ")
        place = _PLACE.get(word)
        if line.strip():
            places[place or "forward"].append(rest if place else line)
    made = {name: tuple(lines) for name, lines in places.items()}
    return Step(idiom, made["forward"], result, operand, made["init"], made["after"], made["top"])


def _check(value: Any) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        raise Unfit
    wide = value.ndim > 2 and value.shape[1] > _MOST_CHANNELS
    if value.numel() > _MOST_ELEMENTS or value.ndim < 2 or wide:
        raise Unfit
    if not bool(value.isfinite().all()) or float(value.abs().max()) > _LARGEST:
        raise Unfit

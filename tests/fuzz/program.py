"""A small network as source text: statements that a fuzzer draws, and that can be left out one by one."""

from __future__ import annotations

import itertools
import linecache
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

_HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn"
_LIVELY = """\
with torch.no_grad():  # norms and biases that do something
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand_like(tensor) / 2)"""
_numbers = itertools.count()


@dataclass(frozen=True)
class Step:
    """One idiom, written out.

    ``top`` are definitions before the class, ``init`` statements of ``__init__``, ``after`` statements
    on the finished ``model`` and ``forward`` statements that make ``result`` of ``operand``.
    """

    idiom: str
    forward: tuple[str, ...]
    result: str
    operand: str
    init: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    top: tuple[str, ...] = ()

    def renamed(self, old: str, new: str) -> Step:
        """The step with ``new`` in the place of the variable ``old``."""
        lines = tuple(_renamed(line, old, new) for line in self.forward)
        operand = new if self.operand == old else self.operand
        return replace(self, forward=lines, operand=operand)


@dataclass(frozen=True)
class Program:
    """A network of steps, what it returns and the shape of its input."""

    steps: tuple[Step, ...]
    ending: Step
    shape: tuple[int, ...]
    seed: int

    @property
    def idioms(self) -> tuple[str, ...]:
        """The idioms of the steps and of the ending."""
        return tuple(step.idiom for step in (*self.steps, self.ending))

    def source(self) -> str:
        """The text of a module that makes ``model`` and ``x`` (float64, eval mode)."""
        steps = (*self.steps, self.ending)
        top = "\n\n".join(dict.fromkeys("\n".join(step.top) for step in steps if step.top))
        init = ["super().__init__()", *(line for step in steps for line in step.init)]
        forward = [line for step in steps for line in step.forward]
        after = [line for step in steps for line in step.after]
        return "\n".join(
            [
                *(_HEAD, *([top] if top else []), "", "", "class Net(nn.Module):"),
                *("    def __init__(self):", *_indented(init), ""),
                *("    def forward(self, x):", *_indented(forward), "", ""),
                *(
                    f"torch.default_generator.manual_seed({self.seed})",
                    "model = Net()",
                    _LIVELY,
                    "model.double().eval()",
                ),
                *after,
                f"x = torch.randn{self.shape}.double()",
                "",
            ]
        )

    def build(self) -> tuple[nn.Module, Tensor]:
        """A new model and its input, from the text."""
        made = run_text(self.source())
        return made.model, made.x

    def without(self, index: int) -> Program:
        """The program without a step: its operand stands for its result."""
        gone = self.steps[index]
        rest = [step.renamed(gone.result, gone.operand) for step in self.steps[index + 1 :]]
        ending = self.ending.renamed(gone.result, gone.operand)
        return replace(self, steps=(*self.steps[:index], *rest), ending=ending)


def run_text(text: str) -> Any:
    """A module made of ``text``, with lines that tracebacks and errors can show."""
    number = next(_numbers)
    name, file = f"fuzz_program_{number}", f"<fuzz program {number}>"
    module = types.ModuleType(name)
    module.__file__ = file
    # Only the latest programs are kept: thousands are drawn.
    sys.modules.pop(f"fuzz_program_{number - 50}", None)
    linecache.cache.pop(f"<fuzz program {number - 50}>", None)
    sys.modules[name] = module
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    with torch.random.fork_rng():
        exec(compile(text, file, "exec"), module.__dict__)
    return module


def _indented(lines: list[str]) -> Iterator[str]:
    return (f"        {line}" for line in lines)


def _renamed(text: str, old: str, new: str) -> str:
    return re.sub(rf"(?<![\w.]){old}\b", new, text)

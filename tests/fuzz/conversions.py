"""Conversions of a case, each made once: most of a case's time is theirs, and several promises are of one."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from tests.fuzz.program import Program, run_text


@dataclass(frozen=True)
class Case:
    """A program and the share of low channels it is converted with."""

    program: Program
    alpha: float


class Refused(Exception):  # noqa: N818 - a refusal, not an error
    """An OctifyError of ``convert`` or of the export: allowed, and counted."""


@dataclass(frozen=True)
class Conversion:
    """A conversion, and what it has changed of the model it was given.

    fresh:
        Makes the same result, with a model of its own that a check may run and train.
    """

    changed: tuple[str, ...]
    fresh: Callable[[], octify.Result]


def converted(
    case: Case, *, alpha: float | None = None, training: bool = False, kernels: Any = "paper"
) -> octify.Result:
    """The conversion of ``case``, with ``alpha`` in the place of its own. Raises Refused."""
    return conversion(case, alpha=alpha, training=training, kernels=kernels).fresh()


def conversion(
    case: Case, *, alpha: float | None = None, training: bool = False, kernels: Any = "paper"
) -> Conversion:
    """The conversion of ``case`` in eval or train mode, and what it did to the model. Raises Refused."""
    made = _conversion(case, case.alpha if alpha is None else alpha, training, kernels)
    if isinstance(made, Refused):
        raise made
    return made


@functools.lru_cache(maxsize=8)
def _conversion(case: Case, alpha: float, training: bool, kernels: Any) -> Conversion | Refused:
    def model() -> nn.Module:
        return as_trained(case.program) if training else case.program.build()[0]

    x = case.program.build()[1]
    original = model()
    before = _state(original)
    try:
        result = convert(original, x, alpha, kernels)
    except Refused as refusal:
        return refusal
    after = _state(original)
    names = sorted(before.keys() | after.keys())
    changed = tuple(name for name in names if not _same(before.get(name), after.get(name)))
    again = copied(result.model)
    if again is None:
        return Conversion(changed, lambda: convert(model(), x, alpha, kernels))
    return Conversion(changed, lambda: replace(result, model=again()))


def convert(model: nn.Module, x: Tensor, alpha: float, kernels: Any = "paper") -> octify.Result:
    """The conversion wherever it can be. What octify refuses after it has converted is a failure."""
    try:
        return octify.convert(model, x, alpha, rules="everywhere", kernels=kernels)
    except OctifyError as error:
        raise Refused(reason(error)) from error


def reason(error: OctifyError) -> str:
    """The kind of a refusal, without the names and numbers of the one case."""
    lines = (error.why or "").splitlines() or [""]
    return re.sub(
        r"\s*[(<][^()<>]*(eval_with_key|fuzz program)[^()]*[)]?|\d+", "", f"{error.what}: {lines[0]}"
    )[:200]


def copied(model: nn.Module) -> Callable[[], nn.Module] | None:
    """Copies of ``model`` as it is now; None where it cannot be copied."""
    try:
        kept = copy.deepcopy(model)
    except Exception:  # it keeps a tensor with a history, say
        return None
    return lambda: copy.deepcopy(kept)


def as_trained(program: Program) -> nn.Module:
    """The program's model in train mode, but for what the program itself put in eval mode."""
    made: nn.Module = run_text(
        program.source().replace("model.double().eval()", "model.double().train()")
    ).model
    return made


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a conversion must leave as it is."""
    state: dict[str, Any] = {
        f"tensor {name}": value.detach().clone() for name, value in model.state_dict().items()
    }
    for name, parameter in model.named_parameters():
        state[f"gradient of {name}"] = (parameter.requires_grad, parameter.grad is None, id(parameter))
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        state[f"mode and hooks of {name}"] = (module.training, hooks, type(module), sorted(vars(module)))
    return state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return bool(torch.equal(a, b))
    return bool(a == b)

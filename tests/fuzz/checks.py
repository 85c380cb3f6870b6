"""What must be true of the conversion of any program, one function a promise."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from tests.fuzz.conversions import (
    Case,
    Refused,
    as_trained,
    conversion,
    convert,
    converted,
    copied,
    reason,
)
from tests.fuzz.interior import has_odd_maps, interior
from tests.fuzz.observe import Answer, difference, evaluated, noise, trained
from tests.fuzz.pool import time_limit
from tests.fuzz.program import Program


@dataclass(frozen=True)
class Failure:
    """A promise that was not kept, or an exception of ours; ``refused``: an OctifyError, which is allowed."""

    check: str
    what: str
    refused: bool = False


Check = Callable[[Case], "str | None"]
_ONE_SIZE = ("fixed to", "are low: no high branch")  # reports say that not every size is taken
_SECONDS = 120.0  # a check of a net this small takes one or two


def run_check(name: str, case: Case) -> Failure | None:
    """The failure of one check; None where it holds."""
    try:
        # fx prints the generated code of a module that raises.
        with warnings.catch_warnings(), time_limit(_SECONDS), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            wrong = CHECKS[name](case)
    except Refused as refusal:
        return Failure(name, str(refusal), refused=True)
    except Exception as error:
        lines = (str(error).strip() or "?").splitlines()
        return Failure(name, f"{type(error).__name__}: {lines[0][:200]}")
    return None if wrong is None else Failure(name, wrong)


def _alpha_0(case: Case) -> str | None:
    """The conversion at alpha 0 is the original: at the example's size, another batch, another size."""
    result = converted(case, alpha=0.0)
    return _equal(case.program, result.model, result.report.warnings)


def _left_alone(case: Case) -> str | None:
    """``convert`` changes nothing of the model it was given, in training or eval mode."""
    for training, kernels in ((False, "paper"), (True, "exact")):  # those that other checks look at
        changed = conversion(case, training=training, kernels=kernels).changed
        if changed:
            return f"convert changed {changed[0]} of the model it was given (train mode: {training})"
    return None


def _exact(case: Case) -> str | None:
    """With exact kernels the conversion is the projected reference."""
    result = converted(case, kernels="exact")
    model, x = case.program.build()
    dense = octify.reference(model, result.plan, x)
    again = copied(dense) or (lambda: octify.reference(model, result.plan, x))
    for name, other in _inputs(case.program.shape):
        want = _try(dense, other)
        if want is None:
            continue
        got = _told(result, other, name)
        if got is None:
            continue
        allowed = noise(lambda: (again(), x), other, evaluated)
        where = interior(dense, other) if has_odd_maps(dense, other) else None
        wrong = difference(want, got, allowed, where)
        if wrong:
            return f"exact kernels are not the reference, {name}: {wrong}"
    return None


def _paper(case: Case) -> str | None:
    """The paper's kernels give answers of the same form."""
    model, x = case.program.build()
    want = evaluated(model, x)
    got = evaluated(converted(case).model, x)
    finite = all(bool(t.isfinite().all()) for t in want.tensors.values())
    if want.form != got.form:
        return f"the output's form is {got.form} instead of {want.form}"
    if finite and not all(bool(t.isfinite().all()) for t in got.tensors.values()):
        return "the paper's kernels give values that are not finite"
    return None


def _saved(case: Case) -> str | None:
    """A saved conversion is loaded with the same answers."""
    x = case.program.build()[1]
    result = converted(case)
    want = evaluated(result.model, x)
    with tempfile.TemporaryDirectory() as folder:
        result.save(folder)
        again = octify.load(folder, case.program.build()[0])
        return difference(want, evaluated(again, x), noise(case.program.build, x, evaluated))


def _training(case: Case) -> str | None:
    """At alpha 0 a training step does what it does to the original: answers, gradients, buffers."""
    example = case.program.build()[1]
    x = torch.cat([example, example.flip(0) * 0.9])
    result = converted(case, alpha=0.0, training=True)
    original = as_trained(case.program)
    try:
        want = trained(original, x)
    except Exception:  # one that cannot be trained at all
        return None
    if any("train" in warning for warning in result.report.warnings):
        return None
    got = trained(result.model, x)
    allowed = noise(lambda: (as_trained(case.program), x), x, trained)
    return difference(want, got, allowed)


def _trainable(case: Case) -> str | None:
    """A conversion can be trained wherever the original can, with finite gradients."""
    original, x = as_trained(case.program), case.program.build()[1]
    try:
        want = trained(original, x)
    except Exception:
        return None
    result = converted(case, training=True, kernels="exact")
    told = any("train" in warning for warning in result.report.warnings)
    got = trained(result.model, x)
    if want.form != got.form and not told:
        return f"in train mode the output's form is {got.form} instead of {want.form}"
    bad = [name for name, value in got.tensors.items() if not bool(value.isfinite().all())]
    fine = all(bool(value.isfinite().all()) for value in want.tensors.values())
    return f"{bad[0]} is not finite in training" if bad and fine else None


def _onnx(case: Case) -> str | None:
    """The exported file answers as the conversion does."""
    model, x = case.program.build()
    model, x = model.float(), x.float()
    try:
        evaluated(model, x)
    except Exception:  # a dtype is written down in it
        return None
    result = convert(model, x, case.alpha)
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = octify.export_onnx(result.model.eval(), x, Path(folder) / "net.onnx")
        except OctifyError as error:
            raise Refused(reason(error)) from error
    return None if exported.passed else f"the ONNX file is off by {exported.max_abs_error:.3g}"


CHECKS: Mapping[str, Check] = {
    "alpha 0": _alpha_0,
    "left alone": _left_alone,
    "exact": _exact,
    "paper": _paper,
    "saved": _saved,
    "training": _training,
    "trainable": _trainable,
    "onnx": _onnx,
}


def _equal(program: Program, converted: nn.Module, told: tuple[str, ...]) -> str | None:
    for name, other in _inputs(program.shape):
        original, _ = program.build()
        want = _try(original, other)
        if want is None:
            continue
        try:
            got = evaluated(converted, other)
        except Exception as error:
            if name == "another size" and any("fixed to" in warning for warning in told):
                continue
            return f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        wrong = difference(want, got, noise(program.build, other, evaluated))
        if wrong:
            return f"alpha 0 is not the original, {name}: {wrong}"
    return None


def _told(result: Any, other: Tensor, name: str) -> Answer | None:
    """The conversion's answer; None where the report said that it takes one size alone."""
    try:
        return evaluated(result.model, other)
    except Exception:
        if name == "another size" and any(word in w for w in result.report.warnings for word in _ONE_SIZE):
            return None
        raise


def _inputs(shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """The example's size, another batch, and another size, even where the example's is."""
    generator = torch.Generator().manual_seed(7)
    for name, changed in (
        ("the example's size", shape),
        ("another batch", (3, *shape[1:])),
        ("another size", (*shape[:2], *(n + 4 for n in shape[2:]))),
    ):
        yield name, torch.randn(changed, generator=generator, dtype=torch.float64)


def _try(model: nn.Module, x: Tensor) -> Answer | None:
    """The answer, or None where the model does not take this input."""
    try:
        return evaluated(model, x)
    except Exception:
        return None

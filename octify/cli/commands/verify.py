"""``octify verify``: compare a conversion with its definition, and its ONNX file with PyTorch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.cli.loading import check_model, check_policy, describe, load
from octify.cli.options.shared import (
    AlphaOption,
    DebugOption,
    ExcludeOption,
    InputOption,
    JsonOption,
    ModelArgument,
    QuietOption,
    RulesOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outcome import require_converted
from octify.cli.session import Session, session
from octify.errors import CheckFailed, ExportError, OctifyError

if TYPE_CHECKING:
    from rich.table import Table

    from octify.compare.oracles import Check
    from octify.source import Source


def verify(
    model: ModelArgument,
    alpha: AlphaOption = 0.5,
    rules: RulesOption = "default",
    exclude: ExcludeOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a conversion of MODEL against its definition; write nothing.

    Three comparisons: alpha 0 must equal the original; exact kernels must equal the projected
    reference, in float64 and in float32 (except for the borders of octave maps of odd size);
    and onnxruntime must equal PyTorch on the paper's kernels.
    Parameters that an untrained model leaves constant are made random first: scales of 0 and 1 hide
    faults. Running a model file runs its code: give only files you trust.

    \b
    Example:
      octify verify model.py --alpha 0.25
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        check_model(model, weights, input)
        check_policy(alpha, rules)
        source = load(run, model, weights, input)

        from octify.compare.oracles import enlivened

        lively, filled = enlivened(source.model)
        policy = {"alpha": alpha, "rules": rules, "exclude": tuple(exclude or ())}
        checks = list(_checks(run, replace(source, model=lively), policy))
        run.show(_table(checks))
        if filled:
            run.show(f"made random for these checks: {len(filled)} constant parameters ({filled[0]}, ...)")
        run.partial = {
            "source": describe(source),
            "passed": all(each.passed is not False for each in checks),
            "checks": [each.to_dict() for each in checks],
            "made_random": filled,
        }
        failed = [f"{each.name} ({each.dtype})" for each in checks if each.passed is False]
        if failed:
            raise CheckFailed(
                f"{len(failed)} of {len(checks)} checks failed",
                why="\n".join(failed),
                hint="please report the model: a conversion must pass them all",
            )
        run.answer(run.partial)


def _checks(run: Session, source: Source, policy: dict[str, Any]) -> Iterator[Check]:
    from octify import api
    from octify.compare.oracles import answers, check, distance

    model, inputs = source.model, source.example_inputs
    run.progress("alpha 0")
    identity = api.convert(model, inputs, **policy | {"alpha": 0.0})
    yield check(
        "alpha 0 = original",
        "float32",
        distance(answers(identity.model, inputs), answers(model, inputs)),
        0.0,
    )
    run.progress("exact kernels")
    exact = api.convert(model, inputs, kernels="exact", **policy)
    require_converted(exact.report)
    yield from _exactness(source, exact)
    run.progress("ONNX")
    yield _onnx(source, api.convert(model, inputs, kernels="paper", **policy).model)


def _exactness(source: Source, exact: Any) -> Iterator[Check]:
    from octify import api
    from octify.compare.oracles import (
        FLOAT64_SHARE,
        answers,
        check,
        distance,
        float32_noise,
        in_float64,
        largest,
        odd_values,
    )
    from octify.trace.noise import NOISE_FACTOR

    name = "exact kernels = projected reference"
    model, inputs = source.model, source.example_inputs
    wide_model, wide_inputs = in_float64(model, inputs)
    # A second conversion in float64: casting the float32 result would keep the rounding of its kernels.
    wide = api.convert(wide_model, wide_inputs, plan=exact.plan)
    expected = answers(api.reference(wide_model, exact.plan, wide_inputs), wide_inputs)
    error = distance(answers(wide.model, wide_inputs), expected)
    odd = odd_values(model, inputs, exact.plan)
    yield check(name, "float64", error, FLOAT64_SHARE * largest(expected), odd)

    reference = api.reference(model, exact.plan, inputs)
    noise = max(float32_noise(model, inputs), float32_noise(reference, inputs))
    error = distance(answers(exact.model, inputs), answers(reference, inputs))
    yield check(name, "float32", error, NOISE_FACTOR * noise, odd)


def _onnx(source: Source, model: Any) -> Check:
    from octify.compare.oracles import Check

    name = "onnxruntime = PyTorch"
    with tempfile.TemporaryDirectory(prefix="octify-") as folder:
        file = Path(folder) / "model.onnx"
        try:
            result = _exported(model, source, file)
        except CheckFailed as error:
            return Check(name, "float32", math.nan, math.nan, False, f"{error.where}: {error.why}")
        except ExportError as error:
            if _can_be_exported(source, file):
                raise
            return Check(
                name, "float32", math.nan, math.nan, None, f"nor can the original be exported: {error.why}"
            )
    return Check(name, "float32", result.max_abs_error, result.tolerance, result.passed)


def _exported(model: Any, source: Source, file: Path) -> Any:
    """Export for any batch size, or for the example's alone where the model's own code fixes it."""
    from octify.export import export_onnx

    try:
        return export_onnx(model, source.example_inputs, file)
    except ExportError:
        return export_onnx(model, source.example_inputs, file, dynamic_batch=False)


def _can_be_exported(source: Source, file: Path) -> bool:
    try:
        _exported(source.model, source, file)
    except OctifyError:
        return False
    return True


def _table(checks: list[Check]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "dtype", "maximum error", "allowed", "result")
    for each in checks:
        result = {True: "passed", False: "FAILED", None: "does not apply"}[each.passed]
        table.add_row(
            each.name,
            each.dtype,
            f"{each.max_abs_error:.3g}",
            f"{each.allowed:.3g}",
            Text(
                f"{result}: {each.note}" if each.note else result,
                style="bold red" if each.passed is False else "",
            ),
        )
    return table

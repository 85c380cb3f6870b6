"""First steps of every command on a model: check the arguments cheaply, then build the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octify.checks.alpha import check_alpha
from octify.cli.session import Session
from octify.errors import SourceError
from octify.source import load_source, parse_shape, parse_target

if TYPE_CHECKING:
    from octify.source import Source


def check_model(target: str, weights: Path | None, inputs: Sequence[str] | None) -> None:
    """Validate, before torch is imported, the model's name, its weights and its input shapes."""
    parse_target(target)
    for text in inputs or ():
        parse_shape(text)
    if weights is not None and not weights.is_file():
        beside = (parse_target(target).file or Path()).parent / weights.name
        raise SourceError(
            f"no such weights file: {weights}",
            hint=f"--weights {beside}" if beside.is_file() else "check the path after --weights",
        )


def check_policy(alpha: float, rules: str | None) -> None:
    """Refuse an alpha outside [0, 1] and a rule set that is missing or wrong."""
    check_alpha(alpha)
    if rules is not None:
        from octify.planning import ruleset

        ruleset.load_rules(rules)


def load(run: Session, target: str, weights: Path | None, inputs: Sequence[str] | None) -> Source:
    """Build the model and its example inputs, and show the progress."""
    run.progress("importing torch")
    from octify import api  # noqa: F401

    run.progress(f"loading {target}")
    return load_source(target, weights=weights, inputs=tuple(inputs or ()))


def describe(source: Source) -> dict[str, object]:
    """JSON form of a source: the target as typed, and the example inputs."""
    shapes = [
        {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch.")} for x in source.example_inputs
    ]
    return {"target": source.target, "inputs": shapes}

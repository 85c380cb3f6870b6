"""Load a converted folder: its plan and weights, applied to the original that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from octify.artefact import origin as artefact
from octify.artefact.files import PLAN, SOURCE
from octify.cli.loading import check_model, load
from octify.cli.session import Session
from octify.errors import SourceError

if TYPE_CHECKING:
    from torch import nn

    from octify.source import Source


def find_origin(folder: Path, model: str | None, weights: Path | None, again: str) -> artefact.Origin:
    """Return the original of ``folder``: the one the command names, else the one in source.json.

    Parameters
    ----------
    model, weights:
        Values of ``--model`` and ``--weights``. The weights that source.json names belong to the model it
        names: they are not used with another one.
    again:
        The command that names the original, for hints.

    Raises SourceError when octify did not write the folder, or nothing names its original.
    """
    if not artefact.is_artefact(folder):
        raise SourceError(
            f"{folder} is not a folder that octify wrote",
            why=f"it has no {PLAN}" if folder.is_dir() else "there is no such folder",
            hint=f"octify convert MODEL -o {folder}",
        )
    recorded = artefact.read_origin(folder)
    if model is not None:
        return artefact.Origin(model, recorded.inputs if recorded else (), weights)
    if recorded is None:
        raise SourceError(
            f"{folder} does not say which model it was made from",
            why=f"it has no {SOURCE}",
            hint=again,
        )
    return replace(recorded, weights=weights or recorded.weights)


def check_origin(origin: artefact.Origin, again: str | None) -> None:
    """Check, before torch is imported, that the original exists.

    ``again``: command for the hint, if the original came from source.json; None adds no hint.
    """
    try:
        check_model(origin.target, origin.weights, origin.inputs)
    except SourceError as error:
        error.hint = again or error.hint
        raise


def load_converted(
    run: Session, folder: Path, model: str | None, weights: Path | None, inputs: list[str] | None
) -> tuple[nn.Module, Source]:
    """Load the converted model in ``folder``, and the source of its original.

    ``model`` names the original where it is not where source.json says. Raises SourceError when the
    folder is not octify's, or its original cannot be had.
    """
    again = f"octify export {folder} FILE.onnx --model MODEL"
    origin = find_origin(folder, model, None, again)
    if weights is not None:
        raise SourceError(
            f"{folder} has its own weights; --weights is for a model", hint="leave --weights out"
        )
    # Its original weights are not needed: the folder's own replace every one of them.
    origin = replace(origin, weights=None, inputs=tuple(inputs or origin.inputs))
    check_origin(origin, None if model or inputs else f"{again}, where MODEL is the original now")
    source = load(run, origin.target, None, origin.inputs)

    from octify import api

    run.progress(f"loading {folder}")
    return api.load(folder, source.model), source

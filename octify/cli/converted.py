"""A converted folder as a model again: its plan and weights, on the original that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from octify.cli import artefact
from octify.cli.loading import check_model, load
from octify.cli.session import Session
from octify.errors import SourceError

if TYPE_CHECKING:
    from torch import nn

    from octify.source import Source


def load_converted(
    run: Session, folder: Path, model: str | None, weights: Path | None, inputs: list[str] | None
) -> tuple[nn.Module, Source]:
    """The converted model in ``folder``, and the source of its original.

    ``model`` names the original where it is not where source.json says. Raises SourceError when the
    folder is not octify's, or its original cannot be had.
    """
    if not artefact.is_artefact(folder):
        raise SourceError(
            f"{folder} is not a folder that octify wrote",
            why=f"it has no {artefact.PLAN}",
            hint=f"octify convert MODEL -o {folder}",
        )
    if weights is not None:
        raise SourceError(
            f"{folder} has its own weights; --weights is for a model", hint="leave --weights out"
        )
    origin = artefact.read_origin(folder)
    target = model or (origin.target if origin else None)
    if target is None:
        raise SourceError(
            f"{folder} does not say which model it was made from",
            why=f"it has no {artefact.SOURCE}",
            hint=f"octify export {folder} FILE.onnx --model MODEL",
        )
    shapes = inputs or list(origin.inputs if origin else ())
    try:
        check_model(target, None, shapes)
    except SourceError as error:
        if error.hint and model is None:
            error.hint = f"octify export {folder} FILE.onnx --model MODEL, where MODEL is the original now"
        raise
    # Its original weights are not needed: the folder's own replace every one of them.
    source = load(run, target, None, shapes)

    from octify import api

    run.progress(f"loading {folder}")
    return api.load(folder, source.model), source

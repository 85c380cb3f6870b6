"""Detection of finished runs: a run that was stopped after its result was written is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from octify.report.tuning import TuningRow
from octify.storage.digests import digest_of_text
from octify.tune import checkpoint as checkpoints
from octify.tune.options import Options

_WEIGHTS = "weights"


def run_digest(identity: Mapping[str, str], data: str, options: Options) -> str:
    """Digest of all that determines a run's result: folder and original, data, options."""
    settings = asdict(options)
    del settings["checkpoint_every"]
    return digest_of_text(json.dumps([dict(identity), data, settings], sort_keys=True))


def finished_row(
    report: Mapping[str, Any], identity: Mapping[str, str], data: str, options: Options, checkpoint: Path
) -> TuningRow | None:
    """Row of this run in ``report``, the report of the run's destination; None if it is not finished.

    A run that writes into the folder it reads has changed the weights it began with: they are what the row
    says. A checkpoint that began with other weights is of a later run.
    """
    rows = report.get("tuning") or [None]
    try:
        row = TypeAdapter(TuningRow).validate_python(rows[-1])
    except ValidationError:
        return None
    if row.began_with is None or row.run != run_digest({**identity, _WEIGHTS: row.began_with}, data, options):
        return None
    begun = checkpoints.identity_of(checkpoint)
    return row if begun is None or begun.get(_WEIGHTS) == row.began_with else None

"""The folder of a tuned model, and the digests that identify a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from octify.artefact.files import PLAN, REPORT, WEIGHTS, weights_of
from octify.checks.documents import parse_json, read_text
from octify.errors import OctifyError
from octify.report.build import UNCALIBRATED
from octify.report.tuning import TuningRow
from octify.storage.digests import digest_of_file, digest_of_state


def identity(folder: Path, original: nn.Module) -> Mapping[str, str]:
    """Digests of the plan and the weights in ``folder``, and of the original's."""
    return {
        "plan": digest_of_file(folder / PLAN),
        "weights": digest_of_file(folder / WEIGHTS),
        "original": digest_of_state(original.state_dict()),
    }


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report in ``folder``; empty where there is none. Raises OctifyError if it is unreadable."""
    path = folder / REPORT
    if not path.is_file():
        return {}
    try:
        document = parse_json(read_text(path))
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        return document
    except (OSError, ValueError) as error:
        raise OctifyError(
            f"{path} cannot be read", why=str(error), hint="delete it: tune then writes one of its own"
        ) from error


def write_tuned(
    staged: Path,
    folder: Path,
    report: Mapping[str, Any],
    model: nn.Module,
    row: TuningRow,
    warnings: Sequence[str],
) -> None:
    """Write into ``staged`` the plan of ``folder``, the weights of ``model`` and ``report`` with ``row``.

    The report's ``tuning`` is the list of all runs, the latest last.
    """
    shutil.copyfile(folder / PLAN, staged / PLAN)
    (staged / WEIGHTS).write_bytes(weights_of(model))
    earlier = [w for w in report.get("warnings", []) if w != UNCALIBRATED]
    document = {
        **report,
        "warnings": [*earlier, *warnings],
        "tuning": [*report.get("tuning", []), row.to_dict()],
    }
    (staged / REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

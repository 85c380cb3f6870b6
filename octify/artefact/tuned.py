"""The folder of a tuned model, and the digests that identify a run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save as as_safetensors
from torch import nn

from octify.checks.documents import parse_json, read_text
from octify.errors import OctifyError
from octify.report.build import UNCALIBRATED
from octify.report.tuning import TuningRow

_PLAN, _WEIGHTS, _REPORT = "plan.json", "weights.safetensors", "report.json"


def identity(folder: Path, original: nn.Module) -> Mapping[str, str]:
    """Digests of the plan and the weights in ``folder``, and of the original's."""
    numbers = hashlib.sha256()
    for name, value in original.state_dict().items():
        numbers.update(name.encode())
        numbers.update(as_safetensors({"": value.detach().cpu().contiguous().clone()}))
    return {
        "plan": hashlib.sha256((folder / _PLAN).read_bytes()).hexdigest(),
        "weights": hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest(),
        "original": numbers.hexdigest(),
    }


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report in ``folder``; empty where there is none. Raises OctifyError if it is unreadable."""
    path = folder / _REPORT
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
    shutil.copyfile(folder / _PLAN, staged / _PLAN)
    # A copy of each tensor: safetensors refuses tensors that share memory.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    (staged / _WEIGHTS).write_bytes(as_safetensors(tensors))
    earlier = [w for w in report.get("warnings", []) if w != UNCALIBRATED]
    document = {
        **report,
        "warnings": [*earlier, *warnings],
        "tuning": [*report.get("tuning", []), row.to_dict()],
    }
    (staged / _REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

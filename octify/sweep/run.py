"""One conversion of a sweep: its cost, its measurements, and whether an earlier run finished it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from octify.checks.documents import parse_json, read_text
from octify.files import write_text
from octify.report import Report
from octify.report.rows import Point

POINT = "point.json"


def point_of(report: Report, rules: str, rules_digest: str = "") -> Point:
    """Build the point of a conversion under the rules named ``rules``."""
    totals, calibration = report.totals, report.calibration
    assert report.alpha is not None
    return Point(
        rules,
        report.alpha,
        totals.macs_after,
        totals.macs_after / totals.macs_before,
        totals.parameters_after / totals.parameters_before,
        totals.activation_bytes_after / totals.activation_bytes_before,
        totals.converted,
        totals.convolutions,
        totals.splits,
        totals.merges,
        calibration.before.relative_error if calibration else None,
        calibration.after.relative_error if calibration else None,
        calibration.after.agreement if calibration else None,
        rules_digest=rules_digest,
    )


def fingerprint(request: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Digest of everything that a point depends on: the request, and the original's weights."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(_bytes()).numpy().tobytes())
    return digest.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


def finished(folder: Path, key: str) -> Point | None:
    """Read the point that an earlier run left in ``folder`` under the same key; None if there is none."""
    try:
        document = parse_json(read_text(folder / POINT))
        if document["key"] != key:
            return None
        names = {field.name for field in fields(Point)}
        return Point(**{name: value for name, value in document["point"].items() if name in names})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_point(folder: Path, key: str, point: Point) -> None:
    """Mark the conversion in ``folder`` as complete."""
    write_text(folder / POINT, json.dumps({"key": key, "point": point.to_dict()}, indent=1) + "\n")

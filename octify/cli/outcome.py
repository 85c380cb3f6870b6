"""What a report says of a conversion, in one word: was there anything to convert?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octify.errors import CheckFailed

if TYPE_CHECKING:
    from octify.report import Report


def require_converted(report: Report, alpha: float) -> None:
    """CheckFailed with the reasons when ``report`` has no octave layer, unless alpha 0 asked for that."""
    document = report.to_dict()
    if alpha == 0 or any(layer["alpha_in"] or layer["alpha_out"] for layer in document["layers"]):
        return
    reasons: dict[str, list[str]] = {}
    for layer in document["left_dense"]:
        reasons.setdefault(layer["reason"], []).append(layer["path"])
    lines = [
        f"{len(paths)} x {reason} ({paths[0]}{', ...' if len(paths) > 1 else ''})"
        for reason, paths in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    raise CheckFailed(
        "nothing in this model can be converted under these rules",
        why="\n".join(lines) or "it has no convolution",
        hint="--rules everywhere converts all that can be octave; octify inspect MODEL shows every layer",
    )

"""Whether there was anything to convert, and what stood against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octify.errors import CheckFailed

if TYPE_CHECKING:
    from octify.report import Report


def require_converted(report: Report) -> None:
    """CheckFailed with the reasons when nothing became octave, unless alpha 0 asked for that."""
    if report.totals.converted or report.alpha == 0:
        return
    by_reason: dict[str, list[str]] = {}
    for left in report.left_dense:
        by_reason.setdefault(left.reason, []).append(left.path)
    lines = [
        f"{len(paths)} x {reason} ({paths[0]}{', ...' if len(paths) > 1 else ''})"
        for reason, paths in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]
    shows = "octify inspect MODEL shows every layer"
    raise CheckFailed(
        "nothing in this model can be converted under these rules",
        why="\n".join(lines) or "it has no convolution",
        hint=shows if report.rules == "everywhere" else f"--rules everywhere converts all it can; {shows}",
    )

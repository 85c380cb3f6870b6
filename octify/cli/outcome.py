"""The check that something was converted, and the reasons if nothing was."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from octify.errors import CheckFailed

if TYPE_CHECKING:
    from octify.report import Report

_CONVOLUTIONS = ("dense", "grouped", "depthwise", "transposed")
_LITTLE = 0.1  # share of MACs in convolutions below which no rules would help
_SHOWN_KINDS = 3


def require_converted(report: Report) -> None:
    """Raise CheckFailed with the reasons when nothing became octave at an alpha above 0."""
    if report.totals.converted or report.alpha == 0:
        return
    by_reason: dict[str, list[str]] = {}
    for left in report.left_dense:
        by_reason.setdefault(left.reason, []).append(left.path)
    lines = [
        f"{len(paths)} x {reason} ({paths[0]}{', ...' if len(paths) > 1 else ''})"
        for reason, paths in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ] or ["it has no convolution"]
    shares = _shares(report)
    convolutions = shares.pop("convolutions", 0.0)
    few = convolutions < _LITTLE
    if few and shares:
        most = ", ".join(f"{share:.1%} in {kind}" for kind, share in list(shares.items())[:_SHOWN_KINDS])
        lines.insert(0, f"{convolutions:.1%} of its MACs are in convolutions; {most}")
    shows = "octify inspect MODEL shows every layer"
    no_other_rules = report.rules == "everywhere" or few
    raise CheckFailed(
        "nothing in this model can be converted" + ("" if no_other_rules else " under these rules"),
        why="\n".join(lines),
        hint=shows if no_other_rules else f"--rules everywhere converts all it can; {shows}",
    )


def _shares(report: Report) -> dict[str, float]:
    """Shares of the MACs by kind of layer, in descending order."""
    macs: Counter[str] = Counter()
    for row in report.layers:
        macs["convolutions" if row.kind in _CONVOLUTIONS else row.kind] += row.macs_before
    return {kind: count / report.totals.macs_before for kind, count in macs.most_common() if count}

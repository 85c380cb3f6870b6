"""What tuning did, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from octify.tune.loop import Tuned

_ROWS = (
    ("relative output error", "relative_error", ".4f"),
    ("same answer as the original", "agreement", ".1%"),
    ("accuracy", "accuracy", ".1%"),
)


def render_tuning(tuned: Tuned) -> Table:
    """Held-out figures before and after."""
    towards = "labels and the original" if tuned.labelled and 0 < tuned.settings.distill < 1 else None
    towards = towards or ("the original" if tuned.settings.distill > 0 else "labels")
    table = Table(
        title=f"tuning towards {towards}: {tuned.settings.steps} steps on {tuned.examples} examples, "
        f"{tuned.seconds:.0f} s",
        title_justify="left",
        header_style="bold",
    )
    table.add_column(f"on {tuned.after['inputs']} held-out examples")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for label, key, form in _ROWS:
        if tuned.after.get(key) is not None:
            table.add_row(label, format(tuned.before[key], form), format(tuned.after[key], form))
    return table

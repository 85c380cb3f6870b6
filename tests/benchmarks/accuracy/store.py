"""Rows kept as JSON lines, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from tests.benchmarks.accuracy.measure import Row
from tests.benchmarks.accuracy.methods import Case

Key = tuple[str, str, float, str, int, int, str]


def key(method: str, case: Case, split: str) -> Key:
    """What tells one row from another."""
    return (case.net, case.task, case.alpha, method, case.images, case.seed, split)


class Store:
    """The rows in ``path``, one JSON object a line; None keeps them in memory only."""

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        if path is not None and fresh:
            path.unlink(missing_ok=True)
        for row in _read(path):
            self._keep(row)

    def add(self, row: Row) -> None:
        self._keep(row)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")

    def _keep(self, row: Row) -> None:
        case = Case(row.net, row.task, row.alpha, row.images, row.seed)
        self.rows[key(row.method, case, row.split)] = row


def _read(path: Path | None) -> Iterator[Row]:
    if path is None or not path.exists():
        return
    names = {field.name for field in fields(Row)}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was interrupted
            continue
        if set(found) == names:
            yield Row(**found)

"""Record of the steps that are done, in the converted folder: what they read, and what they wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octify.artefact.origin import is_artefact
from octify.checks.documents import parse_json, read_text
from octify.cli.runfile.content import output_digests
from octify.cli.runfile.steps import RunStep
from octify.files import write_text

RECORD = "run.json"


@dataclass(frozen=True)
class Record:
    """Steps that ran to their end, by name, each with its key and the digests of its outputs."""

    folder: Path
    steps: Mapping[str, Any]

    def is_current(self, step: RunStep, key: str) -> bool:
        """Return whether ``step`` was done with the same key, and what it wrote is whole."""
        entry = self.steps.get(step.name)
        if not step.writes or not isinstance(entry, dict) or entry.get("key") != key:
            return False
        return output_digests(step) == entry.get("outputs")

    def with_step(self, step: RunStep, key: str) -> Record:
        """Write the record with ``step``, which has just ended, and return it.

        ``key`` is the step's as it began: inputs that changed meanwhile make the next run do it again.
        """
        outputs = output_digests(step)
        if outputs is None or not is_artefact(self.folder):
            return self
        steps = {**self.steps, step.name: {"key": key, "outputs": outputs}}
        text = json.dumps({"version": 1, "steps": steps}, indent=1, sort_keys=True)
        write_text(self.folder / RECORD, text + "\n")
        return Record(self.folder, steps)


def read_record(folder: Path) -> Record:
    """Read the record in ``folder``; an empty one where there is none, or it cannot be read."""
    try:
        document = parse_json(read_text(folder / RECORD))
        steps = document["steps"] if document.get("version") == 1 else {}
        return Record(folder, steps if isinstance(steps, dict) else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record(folder, {})

"""The base of all parts of ``plan.json``: strict documents."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictDocument(BaseModel):
    """Part of a JSON document. Unknown keys are refused, and types are not converted.

    JSON has types: ``"8"`` and ``true`` are not channel indices.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

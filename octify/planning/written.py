"""Rule sets as TOML: a rule set with rules put before its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octify.planning.ruleset import Rule, RuleSet


def rules_text(name: str, description: str, first: Sequence[Rule], base: RuleSet) -> str:
    """Rule file in which the rules ``first`` decide before those of ``base``, under the settings of ``base``.

    It reads back as what it was made from; the comments of ``base`` are not in it.
    """
    lines = [f"name = {_value(name)}", f"description = {_value(description)}", ""]
    settings = base.settings.model_dump(exclude_defaults=True)
    if settings:
        lines += ["[settings]", *_entries(settings), ""]
    for rule in (*first, *base.rules):
        lines += ["[[rule]]", *_entries(rule.model_dump(exclude_defaults=True)), ""]
    return "\n".join(lines)


def _entries(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_entries(value)) + " }"
    if isinstance(value, str):  # JSON's strings are TOML's, but for this character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return json.dumps(value)

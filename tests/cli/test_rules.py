"""``octify rules``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_list_names_the_built_in_rule_sets(octify: Any) -> None:
    outcome = octify("rules", "list")
    assert outcome.code == 0
    names = {line.split()[0] for line in outcome.out.splitlines()}
    assert {"default", "paper", "everywhere", "fast"} <= names
    document = octify("rules", "list", "--json").json
    assert {each["name"] for each in document["rules"]} == names
    assert all(each["description"] for each in document["rules"])
    assert set(octify("rules", "list", "-q").out.split()) == names


def test_what_show_prints_is_a_valid_rule_file(octify: Any, net: Path) -> None:
    for name in ("default", "paper", "everywhere", "fast", "int8"):
        outcome = octify("rules", "show", name)
        assert outcome.code == 0
        Path("mine.toml").write_text(outcome.out)
        assert octify("rules", "check", "mine.toml").code == 0
        assert octify("rules", "check", "mine.toml", "--json").json["valid"] is True
        by_name = octify("inspect", net, "--rules", name, "--json").json
        by_file = octify("inspect", net, "--rules", "mine.toml", "--json").json
        assert by_name["totals"] == by_file["totals"]


def test_a_missing_file_is_no_valid_rule_set(octify: Any) -> None:
    assert octify("rules", "check", "none.toml").code == 2

"""docs/commands says what the commands' help says; ``python -m tests.command_pages`` writes it."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Octify
from tests.command_pages import FOLDER, commands, pages

PAGES = dict(pages())


@pytest.mark.parametrize("name", sorted({*PAGES, *(path.name for path in FOLDER.glob("*.md"))}))
def test_a_page_is_up_to_date(name: str) -> None:
    path = FOLDER / name
    assert path.is_file() and name in PAGES, "python -m tests.command_pages"
    assert path.read_text(encoding="utf-8") == PAGES[name], "python -m tests.command_pages"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_of_the_help_is_on_its_page(octify: Octify, name: str) -> None:
    group = commands()[name]
    for inner in group if isinstance(group, dict) else [""]:
        shown = octify(name, *inner.split(), "--help").out
        flags = set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", shown, re.MULTILINE)) - {"--help"}
        assert flags
        for flag in flags:
            assert f"`{flag}" in PAGES[f"{name}.md"] or f"/{flag}" in PAGES[f"{name}.md"], flag

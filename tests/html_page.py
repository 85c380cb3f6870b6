"""An HTML report as tests read it: elements by name, cells by table, the data inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "input", "br"}


@dataclass
class Element:
    """An element of a page; ``text`` is that of everything in it."""

    name: str
    attributes: Mapping[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str | None = None, **wanted: str) -> list[Element]:
        """Everything in it by name and attributes, in order."""
        found = []
        for child in self.children:
            if name in (None, child.name) and all(child.attributes.get(k) == v for k, v in wanted.items()):
                found.append(child)
            found += child.all(name, **wanted)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.name == tag, f"<{closed.name}> ends with </{tag}>"
        self.open[-1].text += closed.text

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def read(text: str) -> Element:
    """The page of ``text``; every element that it opens it must close."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]


def data(page: Element) -> Any:
    """The JSON document in the page."""
    (script,) = page.all("script", id="report")
    return json.loads(script.text)


def rows(page: Element, table: str) -> list[dict[str, tuple[str, str]]]:
    """The rows of a table: by column key, what is shown and the value behind it."""
    (found,) = page.all("table", id=table)
    head, *body = found.all("tr")
    keys = [cell.attributes["data-key"] for cell in head.children]
    return [
        {
            key: (cell.text, cell.attributes["data-value"])
            for key, cell in zip(keys, row.children, strict=True)
        }
        for row in body
    ]

"""Frame of a page: style, script and data inline, contents, sections."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from octify.report.html.tags import Child, Markup, section, tag

# With this policy the browser blocks whatever the page might try to load.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Fragment:
    """Section of a page."""

    key: str
    title: str
    content: Child


def page(title: str, lead: Child, parts: Sequence[Fragment], data: Mapping[str, Any]) -> str:
    """Render the whole page, with ``data`` as JSON in the element with id ``report``."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(_asset("style.css"))),
    )
    links = [tag("li", tag("a", part.title, href=f"#{part.key}")) for part in parts]
    body = tag(
        "body",
        tag("header", tag("h1", title), lead),
        tag("nav", tag("ul", links), aria_label="Contents"),
        tag("main", [section(part.key, part.title, part.content) for part in parts]),
        tag("script", as_json(data), type="application/json", id="report"),
        tag("script", Markup(_asset("page.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def as_json(data: Mapping[str, Any]) -> Markup:
    """JSON that is safe in a script element: no ``<``, and null for numbers that JSON lacks."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asset(name: str) -> str:
    return files("octify.report.html").joinpath(name).read_text(encoding="utf-8")

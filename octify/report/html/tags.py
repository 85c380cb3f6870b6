"""HTML elements as strings. Text and attributes are escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup as Markup
from markupsafe import escape

_VOID = frozenset({"meta", "link", "input", "br"})

Child = str | Markup | Iterable["Child"] | None


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """``<name attributes>children</name>``.

    ``class_`` and ``for_`` lose their underscore, other underscores become hyphens; a value of True is the
    attribute alone, of None or False no attribute. Children that are not ``Markup`` are escaped.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    opened = f"<{name}{shown}>"
    return Markup(opened if name in _VOID else f"{opened}{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Concatenate children."""
    if children is None:
        return Markup("")
    if isinstance(children, str):
        return escape(children)  # unless it is Markup already
    return Markup("".join(join(child) for child in children))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def scroll_box(label: str, *children: Child, class_: str = "scroll") -> Markup:
    """Wrap content that may be wider than the page in a box that scrolls, by keyboard as well."""
    return tag("div", *children, class_=class_, role="region", aria_label=label, tabindex=0)


def section(key: str, title: str, *children: Child) -> Markup:
    """Render a section with a heading that the table of contents links to."""
    heading = tag("h2", title, id=f"{key}-title")
    return tag("section", heading, *children, id=key, aria_labelledby=f"{key}-title")

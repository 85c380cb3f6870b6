"""Hooks of mkdocs: pages that lie outside docs/, and links between them.

The repository is read on its own as well, so its pages link to files; the site has one page for each.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "octify/ops/README.md": "ops.md",
    "octify/calibrate/README.md": "calibrate.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in OUTSIDE.items():
        text = _linked((ROOT / source).read_text(encoding="utf-8"), source, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to the pages that stand for their files."""
    uri = page.file.src_uri
    return markdown if uri in OUTSIDE.values() else _linked(markdown, f"docs/{uri}", uri)


def _linked(markdown: str, source: str, page: str) -> str:
    """``markdown`` of the file ``source`` with the links of ``page``; files without a page are only named."""

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        where = OUTSIDE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if where is None or not where.endswith(".md"):
            return text
        return f"[{text}]({posixpath.relpath(where, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(link, markdown)

"""Reports as single HTML pages: no network, no other file, readable without JavaScript."""

from octify.report.html.conversion import conversion_page
from octify.report.html.sweep import sweep_page

__all__ = ["conversion_page", "sweep_page"]

"""``octify report``: show the report of a folder that octify wrote, on the terminal or as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.artefact import origin as artefact
from octify.cli.options.shared import DebugOption, JsonOption, OverwriteOption, QuietOption, VerboseOption
from octify.cli.outputs import check_files
from octify.cli.session import Session, session
from octify.files import write_text

if TYPE_CHECKING:
    from octify.artefact.stored import StoredConversion, StoredSweep

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        show_default=False,
        help="A folder that octify convert, octify tune or octify sweep wrote. No model code is run.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the report as one HTML page that needs nothing but a browser: no network, no other file.",
    ),
]


def report(
    folder: FolderArgument,
    html: HtmlOption = None,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the report of a conversion or a sweep again: on the terminal, or as an HTML page.

    The page has totals, every layer, the network as a graph, errors, frequencies and, from DIR/bench.json
    (what octify bench --json prints), latencies.

    \b
    Examples:
      octify report out
      octify report out --html out/report.html
      octify bench out --json > out/bench.json
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        from octify.artefact.stored import read_stored

        run.progress(f"reading {folder}")
        stored = read_stored(folder)
        if html is None:
            run.show(*_renderables(stored))
            run.answer(dict(stored.document))
            return
        check_files({"--html": html}, {}, force=force)
        write_page(run, html, _page(folder, stored))
        run.answer(dict(stored.document) | {"written": {"html": str(html)}})


def write_page(run: Session, path: Path, page: str) -> None:
    """Write a page atomically and report it."""
    run.progress(f"writing {path}")
    write_text(path, page)
    run.show(f"wrote {path}: open it in a browser")


def _renderables(stored: StoredConversion | StoredSweep) -> list[Any]:
    from octify.artefact.stored import StoredSweep
    from octify.latency.rows import render_latency
    from octify.report.sweep import render_sweep

    if isinstance(stored, StoredSweep):
        return [render_sweep(stored.points, stored.target)]
    latency = () if stored.latency is None else ("", *render_latency(stored.latency))
    return [stored.report, *latency]


def _page(folder: Path, stored: StoredConversion | StoredSweep) -> str:
    from octify.artefact.stored import StoredSweep
    from octify.report.html import conversion_page, sweep_page

    if isinstance(stored, StoredSweep):
        return sweep_page(stored.points, stored.target, stored.document)
    origin = artefact.read_origin(folder)
    source = None if origin is None else origin.target
    return conversion_page(stored.report, source=source, measured=stored.latency)

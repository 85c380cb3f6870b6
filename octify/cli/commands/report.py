"""``octify report``: show the report of a folder that octify wrote, on the terminal or as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octify.artefact import origin as artefact
from octify.cli.options.shared import DebugOption, JsonOption, OverwriteOption, QuietOption, VerboseOption
from octify.cli.outputs import check_files
from octify.cli.session import Session, session
from octify.errors import OctifyError
from octify.files import write_text

if TYPE_CHECKING:
    from octify.artefact.stored import StoredConversion, StoredSweep

FolderArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR [OTHER]",
        show_default=False,
        help="A folder that octify convert, octify tune or octify sweep wrote, or two to compare. No model"
        " code is run.",
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
SvgOption = Annotated[
    Path | None,
    typer.Option(
        "--svg",
        metavar="FILE",
        help="Draw one conversion as a picture: each convolution's map before and after, and its MACs.",
    ),
]


def report(
    folder: FolderArgument,
    html: HtmlOption = None,
    svg: SvgOption = None,
    force: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the report of a conversion or a sweep again, or compare two: on the terminal, or as an HTML page.

    The page has totals, every layer, the network as a graph, errors, frequencies and, from DIR/bench.json
    (what octify bench --json prints), latencies. Two conversions are compared in cost, accuracy, latency
    and layer by layer; two sweeps point by point.

    \b
    Examples:
      octify report out
      octify report out --html out/report.html
      octify report out --svg out/picture.svg
      octify report out other --html comparison.html
      octify bench out --json > out/bench.json
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        from octify.artefact.stored import read_stored

        if len(folder) > 2:
            raise OctifyError(
                f"{len(folder)} folders cannot be compared",
                why="two results stand side by side",
                hint=f"octify report {folder[0]} {folder[1]}",
            )
        results = []
        for each in folder:
            run.progress(f"reading {each}")
            results.append(read_stored(each))
        check_files({"--html": html, "--svg": svg}, {}, force=force)
        drawn = None if svg is None else _picture(folder, results)
        if len(results) == 1:
            (stored,) = results
            shown, document = _renderables(stored), dict(stored.document)
            page = _page(folder[0], stored) if html is not None else ""
        else:
            shown, page, document = _compared(folder, results)
        written = {name: str(path) for name, path in (("html", html), ("svg", svg)) if path is not None}
        if html is not None:
            write_page(run, html, page)
        if svg is not None and drawn is not None:
            write_text(svg, drawn)
            run.show(f"wrote {svg}")
        if not written:
            run.show(*shown)
        run.answer(document | ({"written": written} if written else {}))


def _picture(folders: Sequence[Path], results: Sequence[StoredConversion | StoredSweep]) -> str:
    """The picture of the one conversion in ``results``. Raises OctifyError for anything else."""
    from octify.artefact.stored import StoredConversion
    from octify.report.html.picture import picture

    if len(results) != 1 or not isinstance(results[0], StoredConversion):
        raise OctifyError(
            f"--svg does not draw {' and '.join(map(str, folders))}",
            why="a picture shows one conversion",
            hint="octify report DIR --svg FILE, where octify convert wrote DIR",
        )
    return picture(results[0].report)


def _compared(
    folders: Sequence[Path], results: Sequence[StoredConversion | StoredSweep]
) -> tuple[list[Any], str, dict[str, Any]]:
    """Tables, page and JSON document of two results. Raises OctifyError for a conversion and a sweep."""
    from octify.artefact.stored import StoredConversion, StoredSweep
    from octify.report import comparison
    from octify.report.html.comparison import comparison_page, sweeps_page

    a, b = results
    names = (str(folders[0]), str(folders[1]))
    if isinstance(a, StoredConversion) and isinstance(b, StoredConversion):
        sides = [
            comparison.Side(name, each.report, each.latency) for name, each in zip(names, (a, b), strict=True)
        ]
        row = comparison.compare(*sides)
        return list(comparison.render_comparison(row)), comparison_page(row), row.to_dict()
    if isinstance(a, StoredSweep) and isinstance(b, StoredSweep):
        pairs = comparison.pair_points(a.points, b.points)
        document = {"names": list(names), "points": [pair.to_dict() for pair in pairs]}
        return [comparison.render_pairs(names, pairs)], sweeps_page(names, pairs, document), document
    sweep = names[0] if isinstance(a, StoredSweep) else names[1]
    other = names[1] if isinstance(a, StoredSweep) else names[0]
    raise OctifyError(
        f"{sweep} is a sweep, and {other} is one conversion",
        why="results of one kind are compared",
        hint=f"octify report {sweep}/POINT {other}, where POINT is a folder in the sweep's",
    )


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

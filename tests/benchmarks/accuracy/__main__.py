"""``python -m tests.benchmarks.accuracy``: what conversion costs in accuracy, what calibration brings back.

Four trained networks on two tasks, at several shares of low channels, with kernel slicing, octify's
calibrations and structured pruning (methods.py says which). With ``--json OUT`` rows are kept next to OUT
(``OUT`` with the suffix ``.jsonl``) as they come, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: seconds are of one thread

if TYPE_CHECKING:
    from tests.benchmarks.accuracy.methods import Case

ALPHAS = (0.125, 0.25, 0.5, 0.75)


def parser() -> argparse.ArgumentParser:
    from tests.benchmarks.accuracy.data import CLASSES
    from tests.benchmarks.accuracy.methods import METHODS
    from tests.benchmarks.accuracy.nets import NETS

    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.accuracy", description=str(__doc__).split("\n\n")[1]
    )
    made.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    made.add_argument("--tasks", nargs="+", choices=CLASSES, default=list(CLASSES))
    made.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS), metavar="ALPHA")
    made.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    made.add_argument("--images", type=int, default=256, help="calibration images (default 256)")
    made.add_argument("--few", type=int, default=64, help="also `standard` with so many images; 0: not")
    made.add_argument("--seeds", type=int, default=2, help="draws of calibration images (default 2)")
    made.add_argument(
        "--dear-seeds", type=int, default=1, help="draws for the methods that take minutes (default 1)"
    )
    made.add_argument(
        "--split", choices=("test", "choose"), default="test", help="choose hyper-parameters on `choose`"
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="write all rows; go on from there")
    made.add_argument("--fresh", action="store_true", help="run everything again")
    made.add_argument("--minutes", type=float, help="begin no row after so many; a later run goes on")
    made.add_argument("--docs", type=Path, metavar="FILE.json", help="instead: write docs/accuracy.md")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if given.docs:
        from tests.benchmarks.accuracy.docs import write

        write(given.docs)
        return 0
    from tests.benchmarks.accuracy.measure import row
    from tests.benchmarks.accuracy.store import Store, key
    from tests.benchmarks.accuracy.summary import COLUMNS, cells

    start = time.monotonic()
    store = Store(given.json.with_suffix(".jsonl") if given.json else None, given.fresh)
    wanted = list(cases(given))
    print(" | ".join(COLUMNS), file=sys.stderr)
    for number, (method, case) in enumerate(wanted):
        if key(method, case, given.split) in store.rows:
            continue
        if given.minutes is not None and time.monotonic() - start > 60 * given.minutes:
            print(f"{given.minutes:g} minutes are over; the same command goes on", file=sys.stderr)
            break
        found = row(method, case, given.split)
        store.add(found)
        print(f"[{number + 1} of {len(wanted)}]", " | ".join(cells(found)), file=sys.stderr, flush=True)
    keys = [key(method, case, given.split) for method, case in wanted]
    rows = sorted(
        (store.rows[k] for k in keys if k in store.rows),
        key=lambda r: (r.task, r.net, r.alpha, given.methods.index(r.method), -r.images, r.seed),
    )
    _show(rows, given.images)
    if given.json:
        document = {
            "command": " ".join(["python -m tests.benchmarks.accuracy", *(arguments or sys.argv[1:])]),
            "images": given.images,
            "versions": _versions(),
            "wanted": len(wanted),
            "rows": [asdict(row) for row in rows],
        }
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def cases(given: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Methods and cases, those that say most first: few images after many, another draw after the first."""
    from tests.benchmarks.accuracy import nets
    from tests.benchmarks.accuracy.methods import DEAR, UNSEEDED, Case

    missing = [f"{n}-{t}" for t in given.tasks for n in given.nets if not nets.checkpoint(n, t).exists()]
    for name in missing:
        hint = f"python -m tests.benchmarks.accuracy.train {name} --epochs 24"
        print(f"{name} has no checkpoint and is left out ({hint} makes one)", file=sys.stderr)

    def over(method: str, images: int, seed: int) -> Iterator[tuple[str, Case]]:
        for alpha in given.alphas:
            for task in given.tasks:
                for net in given.nets:
                    if f"{net}-{task}" not in missing:
                        yield method, Case(net, task, alpha, images, seed)

    for seed in range(max(given.seeds, given.dear_seeds)):
        for method in given.methods:
            seeds = 1 if method in UNSEEDED else given.dear_seeds if method in DEAR else given.seeds
            if seed < seeds:
                yield from over(method, given.images, seed)
        if seed < given.seeds and given.few and "standard" in given.methods:
            yield from over("standard", given.few, seed)


def _show(rows: Sequence[Any], images: int) -> None:
    from tests.benchmarks.accuracy import summary

    _print(summary.COLUMNS, [summary.cells(row) for row in rows])
    _print(summary.MEAN_COLUMNS, [summary.mean_cells(mean) for mean in summary.means(rows, images)])
    _print(summary.DEMAND_COLUMNS, [summary.demand_cells(demand) for demand in summary.demands(rows, images)])


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for line in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), "torch-pruning": version("torch-pruning")}


if __name__ == "__main__":
    sys.exit(main())

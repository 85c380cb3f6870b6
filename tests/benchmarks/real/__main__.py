"""``python -m tests.benchmarks.real``: trained networks out of packages, converted at their real sizes.

Rows go to docs/real-networks.json as they come, and those that are there are left out; ``--page`` writes
docs/real-networks.md from them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: seconds are of one thread
DOCS = Path(__file__).resolve().parents[3] / "docs"


def parser() -> argparse.ArgumentParser:
    from tests.benchmarks.real.methods import METHODS
    from tests.benchmarks.real.networks import NETWORKS

    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.real", description=__doc__)
    made.add_argument("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    made.add_argument("--alphas", nargs="+", type=float, default=[0.125, 0.25, 0.5])
    made.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    made.add_argument("--images", type=int, help="crops to calibrate on (default: the network's own number)")
    made.add_argument("--tested", type=int, help="crops to test with (default: the network's own number)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--split", choices=("test", "choose"), default="test", help="choose things on `choose`")
    made.add_argument("--json", type=Path, default=DOCS / "real-networks.json", metavar="FILE")
    made.add_argument("--fresh", action="store_true", help="measure rows again that are in FILE")
    made.add_argument("--page", action="store_true", help="only write docs/real-networks.md from FILE")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    from tests.benchmarks.real.networks import NETWORKS
    from tests.benchmarks.real.page import page
    from tests.benchmarks.real.rows import Row, row, store, stored

    if given.page:
        text = page(list(stored(given.json).values()))
        (DOCS / "real-networks.md").write_text(text, encoding="utf-8")
        return 0
    for net in given.nets:
        for alpha in given.alphas:
            for method in given.methods:
                images = given.images or NETWORKS[net].images
                tested = given.tested or NETWORKS[net].tested
                empty = Row(net, alpha, method, images, given.seed, given.split, tested)
                if empty.key in stored(given.json) and not given.fresh:
                    continue
                found = row(empty)
                store(
                    given.json, stored(given.json) | {found.key: found}
                )  # others may have written meanwhile
                print(_line(found), file=sys.stderr, flush=True)
    return 0


def _line(row: object) -> str:
    from tests.benchmarks.real.page import cells

    return " | ".join(cells(row))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())

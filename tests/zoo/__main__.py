"""``python -m tests.zoo``: convert every CNN of torchvision and timm, and compare.

Run from the root of the checkout. Each model runs in a process of its own; with ``--json OUT`` results are
kept next to OUT (``OUT`` with the suffix ``.jsonl``) as they come, and a later run with the same arguments
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "quirk"))

import torchvision_quirk

PROBED_SHARE = 0.15  # of MACs in convolutions: a family below has no CNN


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__.split("\n\n")[1])
    choice = made.add_argument_group("which models")
    choice.add_argument("names", nargs="*", help="timm:resnet50, resnet50 (both libraries), or a pattern")
    choice.add_argument("--family", action="append", default=[], help="timm:resnet, resnet, or a pattern")
    choice.add_argument("--all", action="store_true", help="every model")
    choice.add_argument(
        "--representatives",
        nargs="?",
        type=int,
        const=3,
        metavar="GROUPS",
        help="of every family one CNN per size group (default: 3 groups)",
    )
    what = made.add_argument_group("what is done")
    what.add_argument("--alpha", type=float, default=0.5)
    what.add_argument("--rules", default="everywhere")
    what.add_argument("--static", action="store_true", help="trace, plan and report only; compare nothing")
    what.add_argument(
        "--onnx",
        nargs="?",
        type=int,
        const=0,
        metavar="GROUPS",
        help="also export and compare in onnxruntime; with GROUPS only one CNN per size group of each family",
    )
    what.add_argument("--check-size", type=int, default=0, help="side of the input for comparisons")
    how = made.add_argument_group("how")
    how.add_argument("--jobs", type=int, default=1, help="models at a time")
    how.add_argument("--timeout", type=float, default=120.0, help="seconds per model")
    how.add_argument("--memory", type=float, default=8.0, help="GiB resident per model")
    how.add_argument("--json", type=Path, metavar="OUT", help="write rows and totals; go on from there")
    how.add_argument("--fresh", action="store_true", help="run everything again")
    how.add_argument("--resume", action="store_true", help="the default: keep what is finished")
    other = made.add_argument_group("instead")
    other.add_argument("--list", action="store_true", help="print the models and what is known of them")
    other.add_argument("--census", action="store_true", help="measure the models, write census.csv")
    other.add_argument("--docs", type=Path, metavar="FILE.json", help="write docs/zoo.md from a result")
    return made


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if given.docs:
        from tests.zoo.docs import write

        write(given.docs)
        return 0
    torchvision_quirk.install()
    from tests.zoo import catalogue

    if given.census:
        return _census()
    chosen = _chosen(given, catalogue.entries())
    if given.list:
        return _list(chosen)
    return _sweep(given, chosen)


def _chosen(given: argparse.Namespace, entries: list[Any]) -> list[Any]:
    from tests.zoo.catalogue import representatives

    if given.all or not (given.names or given.family or given.representatives):
        if not (given.all or given.list):
            parser().error("say which models: NAMES, --family, --representatives or --all")
        return entries
    wanted = set(representatives(given.representatives)) if given.representatives else set()
    if given.representatives and not wanted:
        parser().error("there is no census.csv to choose by; --census writes it")
    for pattern in given.names:
        wanted |= _matching(pattern, {e.name: e for e in entries})
    for pattern in given.family:
        found = _matching(pattern, {e.family: e for e in entries})
        wanted |= {e.name for e in entries if e.family in found}
    return [entry for entry in entries if entry.name in wanted]


def _matching(pattern: str, names: dict[str, Any]) -> set[str]:
    found = {
        name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name.partition(":")[2], pattern)
    }
    if not found:
        parser().error(f"nothing is called {pattern!r}; --list shows all names")
    return found


def _census() -> int:
    """Measure the models in forked processes (one that crashes must not end the rest).

    A family whose first and last model are far from CNNs is left at these two.
    """
    import multiprocessing

    from tests.zoo import catalogue

    families: dict[str, list[Any]] = {}
    for entry in catalogue.entries():
        families.setdefault(entry.family, []).append(entry)
    rows = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=20) as pool:
        for family, members in families.items():
            probes = [members[0], *members[1:][-1:]]
            measured = pool.map(catalogue.measure, [entry.name for entry in probes])
            if any(row.conv_share > PROBED_SHARE or row.problem for row in measured):
                rest = [entry.name for entry in members if entry not in probes]
                measured += pool.map(catalogue.measure, rest, chunksize=5)
            rows += [replace(row, family=family) for row in sorted(measured, key=lambda row: row.name)]
            print(f"{len(rows)} {family} {max(row.conv_share for row in measured):.0%}", file=sys.stderr)
    catalogue.write_census(rows)
    return 0


def _list(chosen: list[Any]) -> int:
    from tests.zoo.catalogue import Measured, census

    known = census()
    for entry in chosen:
        m = known.get(entry.name, Measured(entry.name))
        kind = "CNN" if m.mainly_cnn else f"not a CNN ({m.conv_share:.0%} of its MACs)" if m.macs else "?"
        print(
            f"{entry.name:55} {entry.family:35} {m.parameters / 1e6:9.2f} M parameters "
            f"{m.macs / 1e9:9.3f} GMACs  {m.inputs:25} {kind} {m.problem}".rstrip()
        )
    return 0


def _sweep(given: argparse.Namespace, chosen: list[Any]) -> int:
    from rich.console import Console

    from tests.zoo.catalogue import census, representatives
    from tests.zoo.check import Options
    from tests.zoo.runner import Limits, Store, run
    from tests.zoo.summary import is_fault, reasons, show, totals

    named = bool(given.names) and not given.all
    options = Options(given.alpha, given.rules, given.static, False, given.check_size, force=named)
    exporting = replace(options, onnx=True)
    exported = {entry.name for entry in chosen} if given.onnx == 0 else set(representatives(given.onnx or 0))
    limits = Limits(given.timeout, given.memory)
    store = Store(given.json.with_suffix(".jsonl") if given.json else None, given.fresh)

    def tell(row: dict[str, Any], left: int) -> None:
        note = f"  {row['detail']}" if row["detail"] else ""
        figures = f"both {row['both']:.0%}, conv ratio {row['conv_ratio']:.3f}" if row["traced"] else ""
        print(f"[{left} left] {row['name']}: {row['status']} {figures}{note}", file=sys.stderr, flush=True)

    asked = [(entry, exporting if entry.name in exported else options) for entry in chosen]
    rows = run(asked, limits, max(1, given.jobs), store, census(), tell)
    if given.json:
        document = {
            "command": " ".join(["python -m tests.zoo", *sys.argv[1:]]),
            "options": asdict(options) | {"onnx": sum(options.onnx for _, options in asked)},
            "limits": asdict(limits),
            "versions": _versions(),
            "totals": totals(rows),
            "reasons": reasons(rows),
            "rows": rows,
        }
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(rows, Console(width=None if sys.stdout.isatty() else 200))
    return 1 if any(is_fault(row) for row in rows) else 0


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


if __name__ == "__main__":
    sys.exit(main())

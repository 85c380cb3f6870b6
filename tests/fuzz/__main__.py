"""``python -m tests.fuzz --graphs N`` and ``--cli N``: octify against drawn networks and command lines."""

from __future__ import annotations

import argparse
import fnmatch
import functools
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.pool import run_numbers, single_threaded
from tests.quirk import torchvision_quirk


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print what fails, and return 1 if anything did."""
    options = _options().parse_args(arguments)
    single_threaded()
    torchvision_quirk.install()
    failures = 0
    if options.graphs:
        failures += _graphs(options)
    if options.cli:
        failures += _cli(options)
    if not options.graphs and not options.cli:
        _options().error("nothing to do: give --graphs N or --cli N")
    return 1 if failures else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--graphs", type=int, default=0, metavar="N", help="draw N networks")
    parser.add_argument("--cli", type=int, default=0, metavar="N", help="draw N command lines")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (default: 0)")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first case")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a file for every failure")
    parser.add_argument(
        "--idioms", default="*", metavar="GLOB[,GLOB]", help="draw only these idioms of networks"
    )
    parser.add_argument("--solid", action="store_true", help="leave out idioms that wait for a known fault")
    parser.add_argument(
        "--onnx-every", type=int, default=20, metavar="N", help="export every Nth network; 0: none"
    )
    return parser


def _graphs(options: argparse.Namespace) -> int:
    from tests.fuzz import graphs
    from tests.fuzz.catalogue import SOLID, every_idiom
    from tests.fuzz.operations import without_generator

    missing = without_generator()
    for target in missing:
        print(
            f"no generator for {target.text} of {target.family!r}: add arguments to tests/fuzz/arguments.py"
        )
    globs = options.idioms.split(",")
    idioms = tuple(i for i in every_idiom() if any(fnmatch.fnmatchcase(i, glob) for glob in globs))
    idioms = tuple(i for i in idioms if i in SOLID) if options.solid else idioms
    settings = graphs.Settings(options.seed, idioms, options.onnx_every)
    work = functools.partial(graphs.check_number, settings)
    numbers = range(options.first, options.first + options.graphs)
    drawn: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    cases = failures = 0
    shown: set[str] = set()
    died = functools.partial(graphs.of_signal, settings)
    for outcome in run_numbers(
        work, died, numbers, jobs=options.jobs, seconds=options.seconds, what="networks"
    ):
        cases += bool(outcome.idioms)
        drawn.update(set(outcome.idioms))
        refused.update({failure.what for failure in outcome.refused})
        for found in outcome.found:
            failures += 1
            text = found.program()
            if text not in shown:
                shown.add(text)
                print(f"# case {found.number} of seed {options.seed}\n{text}\n", flush=True)
                _keep(options.out, found.name, text)
    _summary(cases, failures, drawn, refused, idioms)
    return failures + len(missing)


def _summary(
    cases: int, failures: int, drawn: Counter[str], refused: Counter[str], idioms: Sequence[str]
) -> None:
    print(f"{cases} networks of {len(drawn)} idioms; {failures} failures")
    never = [idiom for idiom in idioms if idiom not in drawn and not idiom.startswith("shape/")]
    if never:
        print(f"never drawn: {', '.join(never)}")
    for reason, count in refused.most_common():
        print(f"refused {count} times: {reason}")


def _cli(options: argparse.Namespace) -> int:
    from tests.fuzz.cli import lines

    work = functools.partial(lines.check_number, options.seed)
    numbers = range(options.first, options.first + options.cli)
    codes: Counter[str] = Counter()
    failures = 0
    for outcome in run_numbers(
        work, lines.of_signal, numbers, jobs=options.jobs, seconds=options.seconds, what="command lines"
    ):
        codes[outcome.ended] += 1
        if outcome.wrong:
            failures += 1
            print(f"# case {outcome.number} of seed {options.seed}\n{outcome.text()}\n", flush=True)
            _keep(options.out, f"cli-{options.seed}-{outcome.number}.txt", outcome.text())
    print(f"{sum(codes.values())} command lines; {failures} failures; ends: {dict(codes.most_common())}")
    return failures


def _keep(folder: Path | None, name: str, text: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

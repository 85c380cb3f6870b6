"""``python -m tests.packages [--only NAME]``: measures every model and writes docs/packages.md."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from octify.errors import OctifyError
from tests.packages.catalogue import ENTRIES, INSTALL
from tests.packages.check import OTHERS, SIZE, Row, measured

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "packages.md"


def _size(size: tuple[int, int, int]) -> str:
    return f"{size[1]}x{size[2]} (batch {size[0]})"


def lines(rows: list[Row]) -> Iterator[str]:
    """The page."""
    yield "# Models of other packages"
    yield ""
    yield (
        f"Random weights, `alpha` 0.5, rules `default`, example input {_size(SIZE)}. Each model is also "
        f"run at {', '.join(map(_size, OTHERS))} by the tests. Written by `python -m tests.packages`."
    )
    yield ""
    yield "Shares are of the convolutions' MACs: octave on both sides, on one, on none."
    yield ""
    yield "| package | model | one graph | both sides | one side | dense | MACs after / before |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for row in rows:
        shares = " | ".join(f"{share:.0%}" for share in row.shares)
        yield (
            f"| {row.entry.package} | {row.entry.name} | {'yes' if row.one_graph else 'no'} | {shares} "
            f"| {row.macs:.3f} |"
        )
    yield ""
    yield "Versions: " + ", ".join(f"{name} {_version(name)}" for name in ("torch", *INSTALL)) + "."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="part of the package's or the model's name; the page is not written")
    only = parser.parse_args().only
    rows = []
    for entry in ENTRIES:
        if only and only not in f"{entry.package} {entry.name}":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows.append(measured(entry))
            except (ImportError, OctifyError) as error:
                print(f"{entry.package} {entry.name}: {error}")
                continue
        print(rows[-1], flush=True)
    if not only:
        PAGE.write_text("\n".join(lines(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Alpha per coupled set against the same alpha for all: ``python -m tests.benchmarks.allocation [NET-TASK]``.

For every trained network and alpha: the uniform conversion, and ``target_macs`` at its MACs, with the same
calibration images. Relative output error, agreement and accuracy on test images that neither has seen. With
``--rows FILE.jsonl`` rows are kept as they come, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: seconds are of one thread

import torch
from torch import Tensor, nn

import octify
from octify.compare.outputs import compare
from tests.benchmarks.accuracy import data, nets
from tests.benchmarks.accuracy.nets import NETS

RULES = nets.CHECKPOINTS.parent / "rules.toml"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "allocation.md"
EXAMPLE = torch.zeros(1, 3, data.SIDE, data.SIDE)
NOISE = 0.01  # of an error: by so much it differs between two calibrations of equal worth
_BATCH = 250


@dataclass(frozen=True)
class Way:
    """One conversion, on test images; ``seconds`` of CPU time, ``aside`` the error on images kept aside."""

    macs: float
    error: float
    agreement: float
    accuracy: float
    seconds: float
    aside: float


@dataclass(frozen=True)
class Row:
    """Both ways at the same MACs; ``chosen`` is what ``target_macs`` chose, made with ``allocated``."""

    which: str
    alpha: float
    images: int
    effort: str
    seed: int
    uniform: Way
    chosen: str
    allocated: Way
    alphas: tuple[float, ...]

    @classmethod
    def read(cls, text: str) -> Row:
        found = json.loads(text)
        ways = {name: Way(**found[name]) for name in ("uniform", "allocated")}
        return cls(**(found | ways | {"alphas": tuple(found["alphas"])}))

    @property
    def key(self) -> tuple[object, ...]:
        return self.which, self.alpha, self.images, self.effort, self.seed

    @property
    def ratio(self) -> float:
        """The error of what was chosen, over that of the uniform alpha."""
        return self.allocated.error / self.uniform.error

    def cells(self) -> list[str]:
        both = (self.uniform, self.allocated)
        return [
            *(self.which, f"{self.alpha:g}", str(self.seed), self.chosen),
            " / ".join(f"{way.macs:.3f}" for way in both),
            " / ".join(f"{way.error:.4f}" for way in both),
            f"{self.ratio:.2f}",
            " / ".join(f"{100 * way.agreement:.1f}" for way in both),
            " / ".join(f"{100 * way.accuracy:.1f}" for way in both),
            " / ".join(f"{way.seconds:.0f}" for way in both),
        ]


COLUMNS = (
    *("network and task", "alpha", "draw", "chosen", "MACs", "relative error", "ratio"),
    *("agreement %", "accuracy %", "CPU s"),
)


def verdict(rows: Sequence[Row]) -> str:
    """What the rows say of the demand: never worse than the uniform alpha, clearly better somewhere."""
    upto = [row for row in rows if row.alpha <= 0.5]
    if not upto:
        return "No rows up to alpha 0.5."
    worse = [row for row in upto if row.ratio > 1 + NOISE]
    best, mean = min(upto, key=lambda row: row.ratio), sum(row.ratio for row in upto) / len(upto)
    told = (
        f"Never worse than the uniform alpha (by more than {100 * NOISE:g} % of the error) in "
        f"{len(upto) - len(worse)} of {len(upto)} rows up to alpha 0.5; alpha per set was chosen in "
        f"{sum(row.chosen == 'per set' for row in upto)}. Error over that of the uniform alpha: mean "
        f"{mean:.2f}, best {best.ratio:.2f} ({best.which}, alpha {best.alpha:g}: "
        f"{best.allocated.error:.4f} for {best.uniform.error:.4f})."
    )
    return told + "".join(f" Worse: {row.which}, alpha {row.alpha:g}, {row.ratio:.3f}." for row in worse)


def main() -> None:
    given = _parser().parse_args()
    kept = _kept(given.rows)
    if given.docs:
        _write(list(kept.values()))
        return
    print(" | ".join(COLUMNS), flush=True)
    rows = []
    for row in _rows(given, kept):
        rows.append(row)
        print(" | ".join(row.cells()), flush=True)
    print(verdict(rows))


def _rows(given: argparse.Namespace, kept: dict[tuple[object, ...], Row]) -> Iterator[Row]:
    for seed in range(given.seeds):
        for which in given.which or _trained():
            for alpha in given.alpha:
                row = kept.get((which, alpha, given.images, given.effort, seed))
                if row is None:
                    row = _compared(which, alpha, given.images, given.effort, seed)
                    if given.rows:
                        with given.rows.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
                yield row


def _compared(which: str, alpha: float, count: int, effort: str, seed: int) -> Row:
    net, task = which.split("-")
    model, test = nets.load(net, task), data.split(task, "test")
    wanted = _logits(model, test.images)
    pool = data.split(task, "pool").images
    images = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]]

    def converted(**how: float) -> tuple[octify.Result, Way]:
        start = time.process_time()
        result = octify.convert(
            model, EXAMPLE, rules=RULES, calibration=[images], effort=effort, seed=seed, **how
        )
        seconds = time.process_time() - start
        return result, _measured(result, wanted, test, seconds)

    _, uniform = converted(alpha=alpha)
    result, allocated = converted(target_macs=uniform.macs)
    found = result.report.allocation
    assert found is not None
    alphas = tuple(each.alpha for each in found.sets)
    return Row(which, alpha, count, effort, seed, uniform, found.chosen, allocated, alphas)


def _measured(result: octify.Result, wanted: Tensor, test: data.Labelled, seconds: float) -> Way:
    given = _logits(result.model.eval(), test.images)
    found, totals, calibration = (
        compare([wanted], [given], held_out=True),
        result.report.totals,
        result.report.calibration,
    )
    assert calibration is not None and found.agreement is not None
    return Way(
        totals.macs_after / totals.macs_before,
        found.relative_error,
        found.agreement,
        float((given.argmax(1) == test.labels).double().mean()),
        seconds,
        calibration.after.relative_error,
    )


@torch.inference_mode()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(_BATCH)])


def _trained() -> list[str]:
    return [f"{net}-{task}" for net in NETS for task in data.CLASSES if nets.checkpoint(net, task).is_file()]


def _kept(path: Path | None) -> dict[tuple[object, ...], Row]:
    if path is None or not path.is_file():
        return {}
    rows = [Row.read(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row.key: row for row in rows}


def _write(rows: Sequence[Row]) -> None:
    """docs/allocation.md."""
    lines = [
        "# Alpha per coupled set against one alpha for all",
        "",
        "Generated by `python -m tests.benchmarks.allocation --rows FILE.jsonl`, and again with `--docs`; "
        "not edited by hand. Networks, tasks and rules are those of accuracy.md. Pairs: uniform alpha / what "
        "`target_macs` chose at its MACs, with the same calibration images "
        f"({', '.join(sorted({str(row.images) for row in rows}))}; effort "
        f"{', '.join(sorted({row.effort for row in rows}))}). Relative error: of the outputs on test images, "
        "over the spread of the original's. CPU s: on one thread.",
        "",
        verdict(rows),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(row.cells()) + " |" for row in sorted(rows, key=lambda row: row.key)),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", metavar="NET-TASK", help="by default all that are trained")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.25, 0.375, 0.5])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="keep rows; go on from there")
    parser.add_argument("--docs", action="store_true", help="instead: write docs/allocation.md from --rows")
    return parser


if __name__ == "__main__":
    main()

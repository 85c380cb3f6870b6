"""What octave conversion makes faster: ``python -m tests.benchmarks.speed [--models NAME ...]``.

    python -m tests.benchmarks.speed --models resnet50 vgg16 mobilenet_v2 --batch 1 8 --core 0 --json OUT
    python -m tests.benchmarks.speed --models samples/unet.py --size 512 --deploy --core 0 --json OUT
    python -m tests.benchmarks.speed --models samples/unet.py --size 1024 --runtimes onnxruntime openvino
    python -m tests.benchmarks.speed --table docs/deploy.json docs/speed.md

Torchvision models with random weights, or a model file, alpha 0.5, under several rules: ``default``,
``fast``, and ``spatial`` (default with ``exchange = "spatial"``); ``--rules pruned`` is Torch-Pruning at
the MACs of the first rules. Each is timed beside the dense original in
interleaved rounds; a speed-up is the median of the ratios of the rounds. Efficiency is the speed-up over
what the MACs promise: speed-up / (1 / MACs ratio). Beside every figure stands the load of the machine when
its rounds began: on a busy one, times are noise and ratios less so. Files are exported at a fixed batch.
PyTorch runs eagerly in both memory formats and, with ``--compile``, compiled by inductor with its weights
frozen; with ``--deploy`` it is onnxruntime and OpenVINO instead, in float32 and int8. ``--json`` adds to a
file that is there; ``--table`` writes its figures into a page.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import octify
from octify.latency.machine import facts, versions
from octify.latency.rows import BenchRow
from octify.latency.runtime import RUNTIMES
from octify.planning.ruleset import rules_path
from octify.source import load_source
from tests.benchmarks.phases import install_quirk
from tests.benchmarks.speed_page import DEPLOYED, write_page
from tests.benchmarks.speed_peers import pruned

ALPHA, SIDE = 0.5, 224
MODELS = ("resnet50", "vgg16", "mobilenet_v2")
RULES = ("default", "fast", "spatial")
PRUNED = "pruned"  # by Torch-Pruning, in place of rules
COLUMNS = (
    *("model", "rules", "runtime", "batch", "threads", "MACs ratio", "dense ms", "octave ms", "quartiles ms"),
    *("speed-up", "efficiency", "dense MiB", "octave MiB", "load"),
)


@dataclass(frozen=True)
class Contestant:
    """A network in one form: ``"dense"``, or by the rules it was converted with; its MACs."""

    name: str
    model: nn.Module
    macs: int


@dataclass(frozen=True)
class Figure:
    """A conversion against the dense original. Peak memory in bytes: of onnxruntime with the weights."""

    model: str
    rules: str
    runtime: str
    batch: int
    threads: int
    macs_ratio: float
    dense_ms: float
    octave_ms: float
    quartiles_ms: tuple[float, float]
    speedup: float
    efficiency: float
    dense_peak_bytes: int | None
    octave_peak_bytes: int | None
    load: float
    interval: tuple[float, float] = (0.0, float("inf"))  # 95 %, of the ratio of medians
    size: int = SIDE
    rounds: int = 0

    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        low, high = self.quartiles_ms
        peaks = (
            "-" if n is None else f"{n / 2**20:.1f}" for n in (self.dense_peak_bytes, self.octave_peak_bytes)
        )
        return (
            *(self.model, self.rules, self.runtime, str(self.batch), str(self.threads)),
            *(f"{self.macs_ratio:.3f}", f"{self.dense_ms:.2f}", f"{self.octave_ms:.2f}"),
            *(f"{low:.2f}-{high:.2f}", f"{self.speedup:.2f}", f"{self.efficiency:.2f}", *peaks),
            f"{self.load:.1f}",
        )


def pin(core: int) -> None:
    """Keep this process, and those it starts, on one core. Exits where there is no such core."""
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("--core: this system cannot pin processes")
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        sys.exit(f"--core {core}: {error.strerror} (there are {os.cpu_count()} cores)")


def rule_file(name: str, folder: Path) -> str | Path:
    """A built-in rule set, or the default one without exchange in 1x1 convolutions."""
    if name != "spatial":
        return name
    text = rules_path("default").read_text(encoding="utf-8")
    path = folder / "spatial.toml"
    path.write_text(text.replace("[settings]\n", '[settings]\nexchange = "spatial"\n', 1), encoding="utf-8")
    return path


def contestants(name: str, rules: Sequence[str], x: Tensor, folder: Path) -> Iterator[Contestant]:
    """The dense network first, then its conversions; a pruned one has the MACs of the first of these."""
    dense = network(name)
    whole = octify.profile(dense, x).totals.macs_before
    yield Contestant("dense", dense, whole)
    wanted: float | None = None
    for kind in rules:
        if kind == PRUNED:
            tell(f"{name}: pruning")
            model = pruned(dense, x, ALPHA if wanted is None else wanted)
            yield Contestant(kind, model, octify.profile(model, x).totals.macs_before)
            continue
        tell(f"{name}: converting, {kind}")
        result = octify.convert(dense, x, ALPHA, rule_file(kind, folder))
        yield Contestant(kind, result.model, result.report.totals.macs_after)
        wanted = result.report.totals.macs_after / whole if wanted is None else wanted


def network(name: str) -> nn.Module:
    """A model of torchvision, or that of a file."""
    torch.manual_seed(0)
    if name.endswith(".py"):
        return load_source(name).model
    import torchvision

    kind = torchvision.models.get_model_builder(name)
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(kind).parameters else {}
    model: nn.Module = kind(weights=None, **backbone).eval()
    return model


def figures(
    name: str, found: Sequence[Contestant], names: Sequence[str], x: Tensor, asked: argparse.Namespace
) -> Iterator[Figure]:
    """All conversions of a network in every runtime at one batch size."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    tell(f"{name}: timing in {', '.join(names)}, batch {len(x)}, load {load:.1f}")
    models = {contestant.name: contestant.model for contestant in found}
    rows = octify.bench(
        models,
        x,
        runtimes=names,
        threads=asked.threads,
        rounds=asked.rounds,
        memory=bool(asked.runtimes) or not asked.deploy,
    ).rows
    for first in range(0, len(rows), len(found)):
        dense, *others = zip(found, rows[first : first + len(found)], strict=True)
        for contestant, row in others:
            yield _figure(name, contestant, row, dense[0].macs, dense[1], load, x.shape[-1])


def _figure(
    name: str, octave: Contestant, row: BenchRow, dense_macs: int, dense: BenchRow, load: float, size: int
) -> Figure:
    ratio = octave.macs / dense_macs
    return Figure(
        name,
        octave.name,
        row.runtime,
        row.batch,
        row.threads,
        ratio,
        dense.timing.median,
        row.timing.median,
        (row.timing.quartile1, row.timing.quartile3),
        row.timing.speedup,
        row.timing.speedup * ratio,
        dense.peak_bytes,
        row.peak_bytes,
        load,
        (row.timing.ratio.low, row.timing.ratio.high),
        size,
        row.timing.rounds,
    )


def table(found: Sequence[Figure], rounds: int) -> Table:
    """All figures; times in milliseconds per call, memory in MiB."""
    made = Table(title=f"alpha {ALPHA:g}, medians of {rounds} interleaved rounds")
    for column in COLUMNS:
        made.add_column(column, justify="left" if column in COLUMNS[:3] else "right", no_wrap=True)
    for figure in found:
        made.add_row(*figure.cells())
    return made


def tell(what: str) -> None:
    """Progress, beside the table."""
    print(what, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of torchvision")
    parser.add_argument(
        "--rules", nargs="+", default=list(RULES), help="of octify, spatial, a file, or pruned"
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], metavar="N", help="batch sizes")
    parser.add_argument("--threads", type=int, default=1, help="threads of an operator")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds")
    parser.add_argument("--core", type=int, help="pin everything to this core; for --threads 1")
    parser.add_argument("--onnx-only", action="store_true", help="leave PyTorch out")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, minutes for each model")
    parser.add_argument("--size", type=int, default=SIDE, help="height and width of the images")
    parser.add_argument("--deploy", action="store_true", help="onnxruntime and OpenVINO, float32 and int8")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="these alone, with their peak memory")
    parser.add_argument("--table", nargs=2, type=Path, metavar=("JSON", "PAGE"), help="only write a page")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")
    asked = parser.parse_args(arguments)
    if asked.core is not None and asked.threads > 1:
        parser.error("--core pins to one core, which is no place for several threads")
    return asked


def runtimes(asked: argparse.Namespace) -> list[str]:
    """The runtimes asked for that are there; what is missing is told."""
    if asked.runtimes:
        return list(asked.runtimes)
    if asked.deploy:
        return list(DEPLOYED)
    wanted = ["onnxruntime"] + ([] if asked.onnx_only else ["eager", "channels-last"])
    if asked.compile:
        reason = RUNTIMES["compile"].available()
        if reason is None:
            wanted.append("compile")
        else:
            tell(f"torch.compile is left out: {reason}")
    return wanted


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and write the figures."""
    asked = parse(arguments)
    if asked.table is not None:
        source, page = asked.table
        write_page(json.loads(source.read_text(encoding="utf-8")), page)
        return
    if asked.core is not None:
        pin(asked.core)
    torch.set_num_threads(asked.threads)
    install_quirk()
    found: list[Figure] = []
    for name in asked.models:
        with tempfile.TemporaryDirectory(prefix="octify-speed-") as folder:
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(max(asked.batch), 3, asked.size, asked.size, generator=generator)
            rivals = list(contestants(name, asked.rules, x[:1], Path(folder)))
            for batch in asked.batch:
                found += figures(name, rivals, runtimes(asked), x[:batch], asked)
    width = max(shutil.get_terminal_size().columns, 190)  # wrapped figures cannot be read
    Console(width=width).print(table(found, asked.rounds))
    if asked.json is not None:
        save(asked.json, found, asked)


def save(path: Path, found: Sequence[Figure], asked: argparse.Namespace) -> None:
    """Write the figures to ``path``; those of other models and sizes that are there stay."""
    document: dict[str, Any] = {"figures": []}
    if path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
    measured = {(figure.model, figure.size) for figure in found}
    document["versions"] = versions()
    document["facts"] = facts(asked.threads)
    document["date"] = datetime.date.today().isoformat()
    others = [
        figure
        for figure in document["figures"]
        if (figure["model"], figure.get("size", SIDE)) not in measured
    ]
    document["figures"] = others + [asdict(figure) for figure in found]
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""One row of the table: how near to the original the network is that a method makes."""

from __future__ import annotations

import functools
import json
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.real.measures import Value
from tests.benchmarks.real.methods import Case, make
from tests.benchmarks.real.networks import NETWORKS

_BATCH = 16


@dataclass(frozen=True)
class Row:
    """Measured on ``tested`` crops of photographs that calibration did not see.

    seconds, peak_gib:
        CPU seconds to make the network, and the most memory of the process that made it.
    failure:
        Why there is no such network; empty if there is.
    """

    net: str
    alpha: float
    method: str
    images: int
    seed: int
    split: str
    tested: int
    macs_ratio: float = 1.0
    seconds: float = 0.0
    peak_gib: float = 0.0
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    failure: str = ""
    torch: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return (self.net, self.alpha, self.method, self.images, self.seed, self.split, self.tested)


def row(empty: Row) -> Row:
    """The row with the key of ``empty``, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (empty,))


def _measured(empty: Row) -> Row:
    case = Case(empty.net, empty.alpha, empty.images, empty.seed)
    own = {f.name: getattr(empty, f.name) for f in fields(Row)} | {"torch": torch.__version__}
    try:
        made = make(empty.method, case)
    except NotImplementedError as error:
        return Row(**own | {"failure": str(error)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    inputs, photos, wanted = _original(empty.net, empty.split, empty.tested)
    given = first_output(made.model, inputs)
    measured = {
        name: asdict(_rounded(measure(wanted, given, photos)))
        for name, measure in NETWORKS[empty.net].measures.items()
    }
    return Row(
        **own
        | {
            "macs_ratio": round(made.macs_ratio, 4),
            "seconds": round(made.seconds, 1),
            "peak_gib": round(peak, 2),
            "values": measured,
        }
    )


def _rounded(value: Value) -> Value:
    return Value(float(f"{value.value:.5g}"), float(f"{value.error:.3g}"), value.count)


@torch.inference_mode()
def first_output(model: nn.Module, images: Tensor) -> Tensor:
    """The first output for all images, (N, ...)."""
    found = [model(batch) for batch in images.split(_BATCH)]
    return torch.cat([y if isinstance(y, Tensor) else y[0] for y in found]).float()


@functools.cache
def _original(net: str, split: str, tested: int) -> tuple[Tensor, Sequence[int], Tensor]:
    network = NETWORKS[net]
    inputs, photos = network.crops(split, tested, 1)
    return inputs, photos, first_output(network.build(), inputs)


def stored(path: Path) -> dict[tuple[object, ...], Row]:
    """The rows that a file holds."""
    if not path.exists():
        return {}
    rows = [Row(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    return {each.key: each for each in rows}


def store(path: Path, rows: dict[tuple[object, ...], Row]) -> None:
    lines = [json.dumps(asdict(each)) for each in rows.values()]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")

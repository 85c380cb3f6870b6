"""What is left of octave convolution's gains after int8 quantization: ``python -m tests.benchmarks.int8``.

The trained digits network and its calibrated octave form, as float ONNX files and quantized by onnxruntime
(static, QDQ, weights per channel, activations calibrated on training images). For each file:
bytes, milliseconds for one image (interleaved rounds, one thread), the share of held-out images on which
its answer is that of the float file it came from and of the float original, and its accuracy.
``--model torchvision:resnet50`` times an untrained network at 224x224 instead, without calibration.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import octify
import octify.quantize
from octify.export.targets import ExportTarget
from octify.latency.rounds import interleaved
from octify.latency.rows import Timing
from octify.latency.runtime import session_of
from tests.benchmarks.calibration import build as network
from tests.benchmarks.calibration import dead_leaves
from tests.places import ROOT

BATCH, INT8 = 32, ExportTarget.onnxruntime_int8
_SETTLING, _UNTRAINED = 8, 4  # images, for a network that is only timed


def quantized(file: Path, target: Path, images: Tensor) -> Path:
    """Quantize ``file`` to ``target``, int8 for onnxruntime, with the ranges of ``images`` (N, C, H, W)."""
    return octify.quantize.quantized(file, target, [(x,) for x in images.split(BATCH)], INT8)


def logits(file: Path, images: Tensor) -> NDArray[np.float32]:
    """(N, classes): what ``file`` says to ``images``, on one thread."""
    session = session_of(file, 1)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x.numpy()})[0] for x in images.split(BATCH)])


@dataclass(frozen=True)
class Case:
    """ONNX files, the float original first and for every ``int8 X`` a ``float X``; held-out images."""

    files: dict[str, Path]
    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Row:
    """One file. Shares are of the held-out images; ``same`` is with its own float file.

    The accuracy of a network that was not trained is None.
    """

    name: str
    bytes: int
    timing: Timing
    same: float
    same_as_original: float
    accuracy: float | None


def measure(case: Case, rounds: int) -> list[Row]:
    """Rows for ``case``."""
    answers = {name: logits(file, case.images).argmax(1) for name, file in case.files.items()}

    def runner(file: Path) -> Any:
        session = session_of(file, 1)
        feed = {session.get_inputs()[0].name: case.images[:1].numpy()}
        return lambda: session.run(None, feed)

    timings = interleaved(
        {name: runner(file) for name, file in case.files.items()}, threads=1, rounds=rounds, progress=_show
    )
    original = next(iter(answers.values()))
    return [
        Row(
            name,
            file.stat().st_size,
            timings[name],
            float((answers[name] == answers[_float_of(name)]).mean()),
            float((answers[name] == original).mean()),
            None if case.labels is None else float((answers[name] == case.labels.numpy()).mean()),
        )
        for name, file in case.files.items()
    ]


def _float_of(name: str) -> str:
    """``int8 octave`` -> ``float octave``."""
    return "float " + name.partition(" ")[2]


def _show(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} {done + 1}/{of}", end="", file=sys.stderr, flush=True)


def digits(folder: Path, alpha: float, count: int, effort: str) -> Case:
    """The trained sample, its octave form calibrated on ``count`` images."""
    sys.path.insert(0, str(ROOT / "samples"))
    import digits_data
    import evaluate_digits

    train, test = digits_data.load()
    original, given = evaluate_digits.load_original(), train.images[:count]
    loader = given.split(BATCH)
    octave = octify.convert(original, test.images[:1], alpha, calibration=loader, effort=effort).model
    return Case(written(folder, original, octave, given), *test)


def untrained(folder: Path, name: str, alpha: float) -> Case:
    """A network of torchvision or timm at 224x224 with settled norms, and its octave form."""
    images = dead_leaves(_SETTLING + _UNTRAINED, 224)
    original = network(name, images[_UNTRAINED:])
    octave = octify.convert(original, images[:1], alpha).model
    return Case(written(folder, original, octave, images[:_UNTRAINED]), images[:_UNTRAINED], None)


def written(folder: Path, original: nn.Module, octave: nn.Module, given: Tensor) -> dict[str, Path]:
    """Both models as float files, and these quantized with ``given``."""
    files: dict[str, Path] = {}
    for name, model in (("dense", original), ("octave", octave)):
        files[f"float {name}"] = octify.export_onnx(model, given[:1], folder / f"{name}.onnx").path
    for name, model in (("dense", original), ("octave", octave)):
        source = folder / f"{name}.source.onnx"
        octify.export_onnx(model, given[:1], source, target=INT8.value)
        files[f"int8 {name}"] = quantized(source, folder / f"{name}.int8.onnx", given)
    return files


def _print(rows: list[Row], images: int) -> None:
    print(f"{'':35}{'bytes':>11}{'ms':>9}{'spread':>8}{'speed-up':>10}", end="")
    print(f"{'as its float':>14}{'as the original':>17}{'accuracy':>10}")
    for row in rows:
        timing = row.timing
        print(f"{row.name:35}{row.bytes:11,}{timing.median:9.3f}{timing.spread:8.0%}", end="")
        print(f"{timing.speedup:10.2f}{row.same:14.1%}{row.same_as_original:17.1%}", end="")
        print(f"{'-':>10}" if row.accuracy is None else f"{row.accuracy:10.1%}")
    best = max((row.accuracy for row in rows if row.accuracy is not None), default=None)
    if best is not None:
        print(f"\n{images} held-out images: a standard error of {math.sqrt(best * (1 - best) / images):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.int8", description=__doc__)
    parser.add_argument("--model", help="torchvision:NAME or timm:NAME, untrained (default: the digits)")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=128, help="for both calibrations (default: 128)")
    parser.add_argument("--effort", choices=("norm", "fast", "standard", "thorough"), default="fast")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.model is not None:
            case = untrained(Path(folder), options.model, options.alpha)
        else:
            case = digits(Path(folder), options.alpha, options.images, options.effort)
        rows = measure(case, options.rounds)
    print(f"onnxruntime {onnxruntime.__version__}, one image, one thread,", end="")
    print(f" {options.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    _print(rows, len(case.images))


if __name__ == "__main__":
    main()

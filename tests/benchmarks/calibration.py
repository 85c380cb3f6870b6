"""What calibration costs at real sizes: ``python -m tests.benchmarks.calibration [--effort fast]``.

Prints, by phase, wall and CPU seconds, the most memory resident, and the relative output error that is left,
for an untrained model whose BatchNorms were settled by a few passes. ResNet-50 at 224x224 with 64 images on
two cores should take under 6 minutes (fast) and 15 (standard), and stay under 8 GiB. The images are dead
leaves: discs that hide one another have the spectra and the edges of photographs, which white noise has not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from octify.calibrate import recipe
from octify.calibrate.distill import distill
from octify.calibrate.options import Calibration, Effort
from octify.compare.outputs import compare, outputs
from octify.passes.resolve import Planned
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace
from tests.benchmarks.phases import install_quirk
from tests.models.zoo import settle

LIMITS = {"fast": 6.0, "standard": 15.0}  # minutes for ResNet-50 at 224x224, 64 images, two cores
LIMIT_GIB = 8.0
_DISCS = 300
_SETTLING = 64
_SAMPLING = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True)
class Phase:
    """What one phase took, and the relative output error after it (None: it was not measured).

    seconds, cpu_seconds:
        On the clock, and of all threads.
    peak_gib:
        The most memory resident meanwhile; ``added_gib`` what of it was not there at the beginning.
    device_gib:
        The most memory that tensors took on a CUDA device meanwhile; None: it was not one.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak_gib: float
    added_gib: float
    error: float | None = None
    device_gib: float | None = None


class Meter:
    """Measures phases one after another on a device; a thread watches the memory."""

    def __init__(self, device: torch.device) -> None:
        self.phases: list[Phase] = []
        self._cuda = device if device.type == "cuda" else None
        self._peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, resident_gib())
            time.sleep(_SAMPLING)

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[float], None]]:
        """Measure the body; what it yields takes the error that the phase left."""
        error: list[float] = []
        start, cpu, before = time.perf_counter(), time.process_time(), resident_gib()
        self._peak = before
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
        yield error.append
        device = None
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)  # what was asked of it, it has done
            device = torch.cuda.max_memory_allocated(self._cuda) / 2**30
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = max(self._peak, resident_gib())
        found = error[-1] if error else None
        self.phases.append(Phase(name, seconds, cpu, peak, peak - before, found, device))


def resident_gib() -> float:
    """Memory of this process that is resident now (its peak so far where the system does not tell)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def dead_leaves(count: int, size: int, seed: int = 0) -> Tensor:
    """Images (count, 3, size, size) of discs that hide one another, of zero mean and unit deviation.

    Radii r have the density ``r^-3``, which makes the images alike at every scale (amplitudes ``f^-1``).
    """
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(size)
    images = torch.zeros(count, 3, size, size)
    least, most = 2.0, size / 2
    for image in images:
        u = torch.rand(_DISCS, 3, generator=generator)
        radii = (least**-2 + u[:, 0] * (most**-2 - least**-2)).rsqrt() * 2
        colours = 0.8 * torch.randn(_DISCS, 1, generator=generator)
        colours = colours + 0.6 * torch.randn(_DISCS, 3, generator=generator)
        for radius, at, colour in zip(radii.tolist(), (u[:, 1:] * size).tolist(), colours, strict=True):
            y, x = (slice(max(0, int(c - radius)), int(c + radius) + 1) for c in at)
            inside = (places[y, None] - at[0]) ** 2 + (places[x] - at[1]) ** 2 < radius**2
            image[:, y, x][:, inside] = colour[:, None]
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    images = images + noise
    return (images - images.mean()) / images.std()


def measure(model: nn.Module, images: Tensor, effort: Effort, alpha: float, seed: int = 0) -> list[Phase]:
    """Calibrate ``model`` on ``images`` as ``octify.convert`` does, phase by phase."""
    meter = Meter(images.device)
    with meter.phase("trace, plan"):
        traced = trace(model, images[:1])
        plan = make_plan(traced, load_rules("default"), alpha)
    with meter.phase("gather, outputs") as tell:
        options = Calibration([images], effort, seed=seed)
        inputs = recipe.images_of(traced, options, progress=_show)
        test = inputs.held_out or inputs.chunks
        wanted = outputs(traced.module, test)

        def error(module: nn.Module) -> float:
            return compare(wanted, outputs(module, test), held_out=True).relative_error

        tell(error(rewrite(traced, plan).module))
    with meter.phase(f"channels ({options.order})"):
        start = recipe.in_best_basis(traced, Planned(plan), inputs, options)
        chosen = recipe.choose_channels(start, inputs, options, _show)
    with meter.phase("rewrite, outputs") as tell:
        rewritten = rewrite(start.traced, chosen.plan, chosen.resolved)
        tell(error(rewritten.module))
    steps = recipe.steps_of(inputs, options)
    with meter.phase("repair, outputs") as tell:
        repaired = recipe.repair_on(start.teacher, rewritten, inputs, options, _show)
        tell(error(rewritten.module))
    if steps:
        with meter.phase("distillation, outputs") as tell:
            distill(
                start.teacher, rewritten, repaired, inputs, wanted, steps=steps, seed=seed, progress=_show
            )
            tell(error(rewritten.module))
    return meter.phases


def _show(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} {done + 1}/{of}", end="", file=sys.stderr, flush=True)


def build(name: str, images: Tensor) -> nn.Module:
    """The model ``torchvision:NAME`` or ``timm:NAME``, untrained, with settled norms."""
    source, _, entry = name.partition(":")
    install_quirk()
    torch.manual_seed(0)
    if source == "timm":
        import timm

        model: nn.Module = timm.create_model(entry)
    else:
        import torchvision

        model = torchvision.models.get_model(entry, weights=None)
    model.to(images.device)
    settle(model, list(images.split(16)))
    return model.eval()


def _print(phases: list[Phase], effort: str) -> None:
    print(
        f"{'phase':22}{'seconds':>10}{'CPU s':>10}{'peak GiB':>10}{'added':>8}{'error':>10}{'device GiB':>12}"
    )
    for p in phases:
        error = 10 * " " if p.error is None else f"{p.error:10.4f}"
        device = "" if p.device_gib is None else f"{p.device_gib:12.2f}"
        print(
            f"{p.name:22}{p.seconds:10.1f}{p.cpu_seconds:10.1f}{p.peak_gib:10.2f}{p.added_gib:8.2f}{error}{device}"
        )
    minutes = sum(p.seconds for p in phases) / 60
    cpu, peak = sum(p.cpu_seconds for p in phases) / 60, max(p.peak_gib for p in phases)
    print(f"\n{minutes:.2f} minutes ({cpu:.2f} of CPU), {peak:.2f} GiB at most", end="")
    print(f"; ResNet-50 at 224x224 is to stay under {LIMITS.get(effort, '-')} minutes and {LIMIT_GIB} GiB")


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.calibration", description=__doc__)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--effort", choices=("fast", "standard", "thorough"), default="standard")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda, ...")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # for thousands of small operations
    images = dead_leaves(options.images + _SETTLING // 2, options.size).to(options.device)
    torch.set_num_threads(options.threads)
    model = build(options.model, images[options.images :])
    phases = measure(model, images[: options.images], options.effort, options.alpha)
    if options.json:
        settings = vars(options) | {
            "device": _named(options.device),
            "torch": torch.__version__,
            "load": os.getloadavg(),
        }
        print(json.dumps({"settings": settings, "phases": [asdict(p) for p in phases]}, indent=2))
        return
    print(
        f"{options.model}, {options.images} images of {options.size}x{options.size}, {options.effort},",
        end="",
    )
    print(f" alpha {options.alpha}, on {_named(options.device)};", end="")
    print(f" torch {torch.__version__}, {options.threads} threads,", end="")
    print(f" load {os.getloadavg()[0]:.1f}\n")
    _print(phases, options.effort)


if __name__ == "__main__":
    main()

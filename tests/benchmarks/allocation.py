"""Alpha per coupled set against the same alpha for all: ``python -m tests.benchmarks.allocation [NET-TASK]``.

For every trained network and alpha: the uniform conversion, and ``target_macs`` at its MACs, with the same
calibration images. Relative output error, agreement and accuracy on test images that neither has seen.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

import octify
from octify.calibrate.compare import compare
from tests.benchmarks.accuracy import data, nets
from tests.benchmarks.accuracy.nets import NETS

RULES = nets.CHECKPOINTS.parent / "rules.toml"
EXAMPLE = torch.zeros(1, 3, data.SIDE, data.SIDE)
_BATCH = 250


def main() -> None:
    arguments = _arguments()
    print(
        "network              alpha    seed  way        MACs    test error  agreement  accuracy  kept aside"
    )
    for which in arguments.which or _trained():
        net, task = which.split("-")
        model, test = nets.load(net, task), data.split(task, "test")
        wanted = _logits(model, test.images)
        for alpha in arguments.alpha:
            for seed in range(arguments.seeds):
                _compare(which, model, test, wanted, alpha, seed, arguments)


def _compare(
    which: str,
    model: nn.Module,
    test: data.Labelled,
    wanted: Tensor,
    alpha: float,
    seed: int,
    arguments: argparse.Namespace,
) -> None:
    pool = data.split(which.split("-")[1], "pool").images
    generator = torch.Generator().manual_seed(seed)
    images = pool[torch.randperm(len(pool), generator=generator)[: arguments.images]]

    def show(name: str, result: octify.Result, seconds: float) -> None:
        given = _logits(result.model.eval(), test.images)
        found = compare([wanted], [given], held_out=True)
        hits = float((given.argmax(1) == test.labels).double().mean())
        totals, calibration = result.report.totals, result.report.calibration
        assert calibration is not None
        print(
            f"{which:<20} {alpha:<8g} {seed:<5} {name:<10} {totals.macs_after / totals.macs_before:.3f}"
            f"   {found.relative_error:.4f}      {found.agreement:.1%}      {hits:.1%}"
            f"     {calibration.after.relative_error:.4f}   {seconds:.0f} CPU s",
            flush=True,
        )

    def convert(**how: float) -> tuple[octify.Result, float]:
        start = time.process_time()
        result = octify.convert(
            model, EXAMPLE, rules=RULES, calibration=[images], effort=arguments.effort, seed=seed, **how
        )
        return result, time.process_time() - start

    uniform, seconds = convert(alpha=alpha)
    show("uniform", uniform, seconds)
    totals = uniform.report.totals
    allocated, seconds = convert(target_macs=totals.macs_after / totals.macs_before)
    found = allocated.report.allocation
    assert found is not None
    show(found.chosen, allocated, seconds)
    rival = "-" if found.per_set is None else f"{found.per_set.relative_error:.4f}"
    alphas = " ".join(f"{each.alpha:.2f}" for each in found.sets)
    print(
        f"    on images kept aside: per set {rival}, uniform {found.uniform.relative_error:.4f}; "
        f"alphas {alphas}",
        flush=True,
    )


@torch.inference_mode()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(_BATCH)])


def _trained() -> list[str]:
    return [f"{net}-{task}" for net in NETS for task in data.CLASSES if nets.checkpoint(net, task).is_file()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", metavar="NET-TASK", help="by default all that are trained")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.25, 0.375, 0.5])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--effort", default="standard")
    return parser.parse_args()


if __name__ == "__main__":
    main()

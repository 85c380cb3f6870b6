"""Octave conversion with other ways to make a network smaller: ``python -m tests.benchmarks.compose``.

The trained digits network, converted and calibrated; pruned by Torch-Pruning before or after that; and, where
torchao is installed, quantized by PyTorch's export-based flow (PT2E, x86 inductor). Prints conv and linear
MACs (a share of the original's) and accuracy on the held-out images.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import octify
from octify.nn import prunable
from tests.benchmarks.accuracy.peers import macs, pruned, renormalise
from tests.places import ROOT

BATCH = 32
RATE = 1e-3


def fine_tune(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """``model`` after ``steps`` of Adam on the labels, in batches of 32; cosine schedule."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.train().parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def pt2e(model: nn.Module, images: Tensor) -> nn.Module:
    """``model`` quantized to int8 by torchao's PT2E flow, its ranges taken from ``images``."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batch = ({0: torch.export.Dim("batch")},)
    graph = torch.export.export(model.eval(), (images[:2],), dynamic_shapes=batch).module()
    assert isinstance(graph, fx.GraphModule)
    one_call_each(graph)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(graph, quantizer)
    with torch.no_grad():
        for batch in images.split(BATCH):
            prepared(batch)
    made: nn.Module = convert_pt2e(prepared)
    return made


def one_call_each(graph: fx.GraphModule) -> None:
    """Let every operation of an exported graph seem to come from a module of its own.

    The x86 quantizer refuses a module that is called twice ("Input partition has more than one output
    node"): a ReLU that serves both sums of a residual block, or both branches of an octave value.
    """
    for node in graph.graph.nodes:
        stack = dict(node.meta.get("nn_module_stack", {}))
        if node.op == "call_function" and stack:
            key, (path, kind) = stack.popitem()
            node.meta["nn_module_stack"] = stack | {f"{key}.{node.name}": (f"{path}.{node.name}", kind)}
        if "torch_fn" in node.meta:
            node.meta["torch_fn"] = (node.name, node.meta["torch_fn"][1])


def measure(alpha: float, share: float, steps: int, count: int) -> Iterator[tuple[str, float, float]]:
    """Name, share of the original's MACs, and accuracy of every combination."""
    sys.path.insert(0, str(ROOT / "samples"))
    import digits_data
    import evaluate_digits

    train, test = digits_data.load()
    original, example, given = evaluate_digits.load_original(), test.images[:1], train.images[:count]
    whole = macs(original, example)

    def row(name: str, model: nn.Module) -> tuple[str, float, float]:
        right = evaluate_digits.predict(model, test.images) == test.labels
        return name, macs(model, example) / whole, float(right.float().mean())

    def octave(model: nn.Module) -> nn.Module:
        loader = given.split(BATCH)
        return octify.convert(model, example, alpha, calibration=loader, effort="fast").model.eval()

    def repaired(model: nn.Module) -> nn.Module:
        renormalise(model, given)
        return fine_tune(model, *train, steps)

    yield row("original", original)
    converted = octave(original)
    yield row(f"octave {alpha:g}", converted)
    after, _ = pruned(prunable(converted), example, share)
    yield row(f"octave {alpha:g}, then pruned to {share:g}", after)
    yield row(f"... and {steps} steps on labels", repaired(after))
    before, _ = pruned(original, example, share)
    yield row(f"pruned to {share:g}", before)
    yield row(f"... and {steps} steps on labels", repaired(before))
    yield row(f"... then octave {alpha:g}", octave(before))
    if importlib.util.find_spec("torchao") is not None:
        for name, model in (("original", original), (f"octave {alpha:g}", converted)):
            right = evaluate_digits.predict(pt2e(model, given), test.images) == test.labels
            yield f"{name}, int8 by PT2E", macs(model, example) / whole, float(right.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compose", description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--share", type=float, default=0.75, help="MACs that pruning leaves (default: .75)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, default=128, help="for calibration (default: 128)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':40}{'MACs':>8}{'accuracy':>10}")
    for name, share, right in measure(options.alpha, options.share, options.steps, options.images):
        print(f"{name:40}{share:8.3f}{right:10.1%}", flush=True)
    print(f"\n500 held-out images: at 99 % a standard error of {math.sqrt(0.01 * 0.99 / 500):.1%}")


if __name__ == "__main__":
    main()

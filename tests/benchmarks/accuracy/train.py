"""Trains networks and writes their checkpoints: ``python -m tests.benchmarks.accuracy.train [NET-TASK]``.

AdamW under OneCycle, new images every epoch, nothing chosen on the test images: they are looked at once,
after the weights have been rounded to the float16 in which they are kept.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.benchmarks.accuracy import data, nets

EPOCHS, BATCH, RATE, DECAY = 8, 32, 3e-3, 0.03


def accuracy(model: nn.Module, split: data.Labelled, batch: int = 250) -> float:
    """The share of ``split`` that ``model`` (in eval mode) gets right."""
    with torch.inference_mode():
        right = [
            (model(x).argmax(1) == y).sum()
            for x, y in zip(split.images.split(batch), split.labels.split(batch), strict=True)
        ]
    return float(torch.stack(right).sum() / len(split.labels))


def train(net: str, task: str, seed: int, epochs: int) -> nn.Module:
    """A network trained on ``epochs`` draws of training images, in eval mode."""
    torch.manual_seed(seed)
    model = nets.build(net, task).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * (data.SIZES["train"] // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    choose = data.split(task, "choose")
    for epoch in range(epochs):
        losses = []
        for x, y in batches(data.split(task, "train", epoch)):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        shown = f"{accuracy(model.eval(), choose):.4f}"
        model.train()
        print(
            f"{net}-{task} epoch {epoch + 1}/{epochs} loss {torch.stack(losses).mean():.3f} choose {shown}",
            flush=True,
        )
    return model.eval().to(memory_format=torch.contiguous_format)


def batches(split: data.Labelled) -> zip[tuple[Tensor, Tensor]]:
    """The images are in random order as they are made; the incomplete last batch is left out."""
    whole = len(split.labels) // BATCH * BATCH
    images = split.images[:whole].contiguous(memory_format=torch.channels_last)
    return zip(images.split(BATCH), split.labels[:whole].split(BATCH), strict=True)


def write(model: nn.Module, net: str, task: str, notes: dict[str, str]) -> None:
    """Writes ``model`` in float16, with ``notes`` and the accuracy of the rounded weights."""
    weights = {k: w.half() if w.is_floating_point() else w for k, w in model.state_dict().items()}
    model.load_state_dict({k: w.float() if w.is_floating_point() else w for k, w in weights.items()})
    figures = {
        f"{name}_accuracy": f"{accuracy(model, data.split(task, name)):.4f}" for name in ("test", "choose")
    }
    nets.CHECKPOINTS.mkdir(exist_ok=True)
    path = nets.checkpoint(net, task)
    save_file(
        {k: w.contiguous() for k, w in weights.items()}, path, {"net": net, "task": task} | figures | notes
    )
    print(path.name, figures, notes, f"{path.stat().st_size} bytes", flush=True)


def main() -> None:
    every = [f"{net}-{task}" for task, net in itertools.product(("textures", "digits"), nets.NETS)]
    parser = argparse.ArgumentParser(description=__doc__)
    # `choices` would compare the empty list with them (before Python 3.13).
    parser.add_argument("which", nargs="*", metavar="NET-TASK", help=", ".join(every))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.which) - set(every)):
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(every)}")
    for which in arguments.which or every:
        net, task = which.split("-")
        start = time.process_time()
        model = train(net, task, arguments.seed, arguments.epochs)
        notes = {
            "seed": str(arguments.seed),
            "epochs": str(arguments.epochs),
            "batch": str(BATCH),
            "cpu_seconds": f"{time.process_time() - start:.0f}",
        }
        write(model, net, task, notes)


if __name__ == "__main__":
    main()

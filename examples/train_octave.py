"""Trains an octave network from scratch, the use of the paper (Chen et al., ICCV 2019).

    python examples/train_octave.py --alpha 0.25 --epochs 6

converts the untrained network under the rules ``paper``, trains it in an ordinary loop on the handwritten
digits of samples/ (scikit-learn), and prints its accuracy on 500 held-out images and its MACs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octify

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "samples"))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class SmallResNet(nn.Module):
    """(N, channels, 32, 32) images -> (N, classes) logits; maps of 32x32, 16x16 and 8x8."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 48, 2))
        self.head = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def octave(model: nn.Module, example: Tensor, alpha: float) -> tuple[nn.Module, float]:
    """Convert an untrained model as the paper does; return it and its share of the MACs."""
    result = octify.convert(model, example, alpha, rules="paper")
    totals = result.report.totals
    return result.model, totals.macs_after / totals.macs_before


def train(
    model: nn.Module, epochs: Iterable[Iterable[tuple[Tensor, Tensor]]], steps: int, rate: float
) -> None:
    """Train ``model`` in place on ``epochs`` of batches, ``steps`` in all; an ordinary loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    model.train()
    for batches in epochs:
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of ``images`` that ``model`` gets right."""
    with torch.inference_mode():
        answers = torch.cat([model(batch).argmax(1) for batch in images.split(250)])
    return float((answers == labels).float().mean())


def trained(alpha: float, epochs: int, seed: int, count: int = 1297) -> tuple[float, float]:
    """Train on ``count`` digits; return the accuracy on the held-out ones and the share of the MACs."""
    import digits_data

    torch.manual_seed(seed)
    data, test = digits_data.load()
    model, share = octave(SmallResNet(1, 10), data.images[:1], alpha)

    def epoch() -> Iterable[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(count).split(32):
            yield data.images[chosen], data.labels[chosen]

    train(model, (epoch() for _ in range(epochs)), steps=epochs * -(-count // 32), rate=5e-3)
    return accuracy(model, test.images, test.labels), share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    right, share = trained(options.alpha, options.epochs, options.seed)
    print(f"alpha {options.alpha}: {right:.1%} of 500 held-out images at {share:.3f} of the MACs")


if __name__ == "__main__":
    main()

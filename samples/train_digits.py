"""Trains digits_resnet.py and writes digits_resnet.safetensors beside it; a few minutes on two CPU cores.

    python samples/train_digits.py [OUT.safetensors]

The held-out images are used once, at the very end, for the number that is printed: nothing was chosen by
them. Needs scikit-learn. The same machine gets the same weights every time.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import digits_data
import digits_resnet
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

EPOCHS = 30
BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 5e-2


def augment(images: Tensor) -> Tensor:
    """Rotate by up to 12 degrees, scale by up to 10 %, shift by up to 3 pixels, add a little noise."""
    n = len(images)
    angle, scale, dx, dy = (torch.rand(n, 4) * 2 - 1).unbind(1)
    angle, scale = angle * math.radians(12), 1 + 0.1 * scale
    dx, dy = dx * 3 / 16, dy * 3 / 16  # half the width, 16 pixels, is 1 in the grid's units
    cos, sin = scale * angle.cos(), scale * angle.sin()
    affine = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).reshape(n, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return (moved + 0.05 * torch.randn_like(moved)).clamp(0, 1)


def train(model: nn.Module, data: digits_data.Digits) -> None:
    steps = EPOCHS * (len(data) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        batches = torch.randperm(len(data)).split(BATCH)
        for chosen in batches[: len(data) // BATCH]:
            logits = model(augment(data.images[chosen]))
            loss = F.cross_entropy(logits, data.labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}/{EPOCHS}   training loss {total / (len(data) // BATCH):.4f}", flush=True)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("digits_resnet.safetensors")
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    train_part, test_part = digits_data.load()
    model = digits_resnet.build_model()
    start = time.perf_counter()
    train(model, train_part)
    seconds = time.perf_counter() - start
    save_file(model.state_dict(), out, metadata={"made_by": "samples/train_digits.py"})
    with torch.inference_mode():
        correct = int((model.eval()(test_part.images).argmax(1) == test_part.labels).sum())
    print(
        f"trained on {len(train_part)} images in {seconds:.0f} s; "
        f"top-1 accuracy {correct / len(test_part):.1%} ({correct} of {len(test_part)} held-out images)\n"
        f"wrote {out} ({out.stat().st_size} bytes)"
    )


if __name__ == "__main__":
    main()

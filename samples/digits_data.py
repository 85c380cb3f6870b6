"""Handwritten digits for the samples: scikit-learn's 1797 images of 8x8 pixels, enlarged to 32x32.

Enlarging makes them smooth, and smooth images are the easy case for octave convolution: expect a conversion
to cost more accuracy on photographs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


class Digits(NamedTuple):
    images: Tensor  # (N, 1, 32, 32) float32 in [0, 1]
    labels: Tensor  # (N,) int64 in 0..9

    def __len__(self) -> int:
        return len(self.labels)


def load() -> tuple[Digits, Digits]:
    """The training and the held-out part: 1297 and 500 images, split at random, always alike, by digit."""
    pixels, labels = load_digits(return_X_y=True)
    small = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    parts = train_test_split(range(len(labels)), test_size=500, random_state=0, stratify=labels)
    train, test = (Digits(images[part], torch.as_tensor(labels[part])) for part in parts)
    return train, test

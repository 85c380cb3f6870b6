"""VGG-11 with BatchNorm for 224x224 images (Simonyan and Zisserman, arXiv 1409.1556).

A plain chain of 3x3 convolutions: nothing ties their channels, and each is free to be octave. The classifier
flattens the last feature map, which is where octify has to merge the two resolutions if they got that far:

    octify inspect samples/vgg.py --alpha 0.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

example_inputs = (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)

LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class VGG(nn.Module):
    def __init__(self, layers: tuple[int | str, ...] = LAYERS, num_classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = []
        c_in = 3
        for layer in layers:
            if isinstance(layer, str):
                features.append(nn.MaxPool2d(2))
            else:
                features += [nn.Conv2d(c_in, layer, 3, padding=1), nn.BatchNorm2d(layer), nn.ReLU()]
                c_in = layer
        self.features = nn.Sequential(*features)
        # The paper's head has two hidden layers of 4096 units, 120 million parameters; 256 will do here.
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c_in * 7 * 7, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def build_model() -> nn.Module:
    return VGG()

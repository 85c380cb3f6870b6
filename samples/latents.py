"""Latents for the calibration of a diffusion decoder: normal noise, or those in a file of yours.

octify convert diffusers:samples/vae:decoder --calib samples/latents.py:noise --calib-effort fast -o out
"""

from collections.abc import Iterator

import torch


def noise(count: int = 64, channels: int = 4, side: int = 16) -> Iterator[torch.Tensor]:
    """Yield latents (channels, side, side) of pictures of 8 * side pixels."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(channels, side, side, generator=generator)

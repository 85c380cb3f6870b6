"""The device that PyTorch's runtimes are timed on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from octify.checks.device import CHOICES, device_called
from octify.errors import OctifyError
from octify.latency.runtime import RUNTIMES


def require_device(name: str, runtimes: Sequence[str]) -> None:
    """Raise OctifyError where ``runtimes`` cannot be timed on the device called ``name``."""
    device = device_called(name)
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise OctifyError(f"models are not timed on {name}", hint=CHOICES)
    others = [runtime for runtime in runtimes if RUNTIMES[runtime].takes != "module"]
    if others:
        raise OctifyError(
            f"{others[0]} does not run on {name}",
            why="--device is for PyTorch's runtimes",
            hint="--runtime eager, channels-last or compile; --runtime onnxruntime-cuda has its own device",
        )
    if not torch.cuda.is_available():
        raise OctifyError(
            f"there is no device {name} here",
            why="PyTorch sees no GPU" if torch.version.cuda else "this PyTorch was built without CUDA",
            hint="leave out --device, or run it on a machine with a GPU and PyTorch built for it",
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise OctifyError(f"there is no device {name} here", why=f"there are {torch.cuda.device_count()}")

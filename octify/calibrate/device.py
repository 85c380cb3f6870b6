"""Devices that calibration can run on."""

from __future__ import annotations

import torch

from octify.checks.device import CHOICES, device_called
from octify.errors import OctifyError


def device_named(text: str) -> torch.device:
    """The device that ``text`` names, such as ``"cuda:1"``. OctifyError if calibration cannot run on it."""
    device = device_called(text)
    if device.type == "meta":
        raise OctifyError("the meta device computes nothing", hint=CHOICES)
    try:
        torch.zeros(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise OctifyError(
            f"there is no device {text} here",
            why=(str(error) or type(error).__name__).splitlines()[0],
            hint="leave out --device, or name one that torch sees",
        ) from error
    require_doubles(device)
    return device


def require_doubles(device: torch.device) -> None:
    """OctifyError for a device without float64 (Apple's GPUs), in which least squares are solved."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except TypeError as error:
        raise OctifyError(
            f"calibration cannot run on {device}",
            why="it solves least squares in float64, which that device does not have",
            hint="calibrate on the CPU: --device cpu, or model.cpu(), and move the result",
        ) from error

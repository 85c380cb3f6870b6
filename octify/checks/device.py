"""Names of devices that users give."""

from __future__ import annotations

import torch

from octify.errors import OctifyError

CHOICES = "--device cpu, cuda or cuda:1"


def device_called(name: str) -> torch.device:
    """The device called ``name``, which may not be there. Raises OctifyError for what is no name of one."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise OctifyError(
            f"{name!r} is not a device", why=str(error).splitlines()[0], hint=CHOICES
        ) from error

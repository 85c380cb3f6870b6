"""Shutdown of a run on several processes."""

from __future__ import annotations

import torch.distributed


def leave_together() -> None:
    """Wait for the other processes and leave their group; no-op without a group.

    A process that ends while its group's threads are still at work is aborted by the C++ runtime.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

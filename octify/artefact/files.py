"""Names of the files in a folder that octify writes, and what its weights file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

PLAN, WEIGHTS, REPORT, SOURCE = "plan.json", "weights.safetensors", "report.json", "source.json"
SWEEP, POINT, BENCH = "sweep.json", "point.json", "bench.json"


def weights_of(model: nn.Module) -> bytes:
    """The state of ``model`` as a safetensors file."""
    from safetensors.torch import save  # with torch, which commands that only read do not need

    # A copy of each tensor: safetensors refuses tensors that share memory.
    return save({name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()})

"""The state of an unfinished run, in a folder of tensors and numbers; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from octify.errors import OctifyError
from octify.files import staged_directory
from octify.tune.places import STATE

_MODEL, _OPTIMIZER = "model.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run had come.

    before:
        What was measured before the first step.
    scaler:
        The loss scale of float16, as Accelerate keeps it; None in other precisions.
    """

    key: str
    step: int
    seconds: float
    before: Mapping[str, Any]
    scaler: Mapping[str, float] | None = None


def write(folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint in ``folder``, whole or not at all."""
    state: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            state[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().clone()
    weights = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    document = {
        "key": progress.key,
        "step": progress.step,
        "seconds": progress.seconds,
        "before": dict(progress.before),
        "scaler": progress.scaler,
    }
    with staged_directory(folder) as staged:
        save_file(weights, staged / _MODEL)
        save_file(state, staged / _OPTIMIZER)
        (staged / STATE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the checkpoint in ``folder`` into ``model`` and ``optimizer``.

    Raises OctifyError when it cannot be read, or belongs to a run with another ``key``.
    """
    try:
        document = json.loads((folder / STATE).read_text(encoding="utf-8"))
        progress = Progress(**document)
        weights, flat = load_file(folder / _MODEL), load_file(folder / _OPTIMIZER)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise OctifyError(
            f"the checkpoint in {folder} cannot be read", why=str(error), hint="--restart begins anew"
        ) from error
    if progress.key != key:
        raise OctifyError(
            f"the checkpoint in {folder} is of another run",
            why="the model, the data, or an option that decides the result is not the same",
            hint="give the options of that run, or --restart to begin anew",
        )
    model.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress

"""Checkpoints: one safetensors file with the JSON in its header, so that one rename writes all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from octify.errors import OctifyError
from octify.files import staged_file

_FORMAT = 1
_MODEL, _OPTIMIZER = "model/", "optimizer/"

Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps. Data order, learning rate and random numbers follow from it.

    identity:
        Model, data and options that identify the run, as JSON scalars by name.
    record:
        Further entries for the report at the end of the run.
    """

    step: int
    identity: Identity
    record: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    scaler: Mapping[str, Any]


def capture(
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: Mapping[str, Any],
    identity: Identity,
    record: Mapping[str, Any],
) -> Checkpoint:
    """Capture the state of a run."""
    # Copies: safetensors refuses tensors that share memory.
    tensors = {f"{_MODEL}{k}": v.detach().cpu().clone() for k, v in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        for k, v in state.items():
            tensors[f"{_OPTIMIZER}{number}/{k}"] = torch.as_tensor(v).detach().cpu().clone()
    return Checkpoint(step, identity, record, tensors, scaler)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Restore the state into a model and an optimizer built as at the beginning of the run."""
    parts = {k.removeprefix(_MODEL): v for k, v in checkpoint.tensors.items() if k.startswith(_MODEL)}
    model.load_state_dict(parts)
    state: dict[int, dict[str, Tensor]] = {}
    for k, v in checkpoint.tensors.items():
        if k.startswith(_OPTIMIZER):
            number, name = k.removeprefix(_OPTIMIZER).split("/")
            state.setdefault(int(number), {})[name] = v
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``path`` atomically."""
    header = {
        "format": _FORMAT,
        "step": checkpoint.step,
        "identity": dict(checkpoint.identity),
        "record": dict(checkpoint.record),
        "scaler": dict(checkpoint.scaler),
    }
    with staged_file(path) as staged:
        save_file(dict(checkpoint.tensors), staged, metadata={"octify": json.dumps(header)})


def identity_of(path: Path) -> Identity | None:
    """Identity of the run of the checkpoint ``path``; None where none can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})["octify"])["identity"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError):
        return None


def load(path: Path, identity: Identity) -> Checkpoint:
    """Read ``path``. OctifyError when it is missing, unreadable or of another run."""
    if not path.is_file():
        raise OctifyError(
            f"there is no checkpoint {path}",
            why="no run into this folder was stopped",
            hint="leave --resume out",
        )
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["octify"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}")
        checkpoint = Checkpoint(
            int(header["step"]),
            dict(header["identity"]),
            dict(header["record"]),
            tensors,
            dict(header["scaler"]),
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise OctifyError(
            f"{path} is not a checkpoint that can be read",
            why=f"{type(error).__name__}: {error}",
            hint="delete it and start anew without --resume",
        ) from error
    _require_identity(path, checkpoint.identity, json.loads(json.dumps(dict(identity))))
    return checkpoint


def _require_identity(path: Path, had: Identity, have: Identity) -> None:
    names = [name for name in {**had, **have} if had.get(name) != have.get(name)]
    if names:
        raise OctifyError(
            f"{path} is of another run: {', '.join(names)} differ{'s' if len(names) == 1 else ''}",
            why="\n".join(f"{n}: {_short(had.get(n))} then, {_short(have.get(n))} now" for n in names),
            hint="the same folder, data and options as then, or delete it and start anew without --resume",
        )


def _short(value: object) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 40 else str(value)

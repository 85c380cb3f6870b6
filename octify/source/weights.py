"""Weight files: safetensors, or state dicts read with ``weights_only=True``. Nothing is ever unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from octify.errors import SourceError

_NESTINGS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_SAFE_HINT = "save only the numbers: torch.save(model.state_dict(), 'weights.pt'), or use safetensors"


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the state dict in ``path`` into ``model``, in place.

    ``{"state_dict": ...}`` and ``{"model": ...}`` nestings and ``module.`` prefixes are accepted.

    Raises
    ------
    SourceError
        The file is missing or unreadable, needs unpickling, or its keys or shapes are not the model's:
        all missing, unexpected and mismatched keys are then counted, and the first of each listed.
    """
    if not path.is_file():
        raise SourceError(f"no such weights file: {path}", hint="check the path after --weights")
    state = _unprefixed(_state_dict(_read(path), path), model)
    problems = _misfits(model, state)
    if problems:
        raise SourceError(
            f"the weights in {path} do not fit the model",
            why="\n".join(problems),
            hint="check that the file belongs to this model and this configuration of it",
        )
    try:
        model.load_state_dict(state, strict=False)  # strictness was settled above
    except RuntimeError as error:
        raise SourceError(f"the weights in {path} cannot be loaded", why=str(error)) from error


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise SourceError(f"{path} is not a readable safetensors file", why=str(error)) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} holds pickled Python objects, which octify refuses to load",
            why="unpickling a file runs whatever code it contains; only tensors are read"
            + _pickled_name(str(error)),
            hint=_SAFE_HINT,
        ) from error
    except Exception as error:  # TorchScript archives and truncated files fail in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError(f"{path} is not a readable state dict", why=reason[0], hint=_SAFE_HINT) from error


def _pickled_name(message: str) -> str:
    """Class that the file needs, when torch names it (``Unsupported global: GLOBAL os.system ...``)."""
    _, match, rest = message.partition("GLOBAL ")
    return f"; this one asks for {rest.split()[0]}" if match and rest.split() else ""


def _state_dict(value: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in ``value``, below any known nesting."""
    while isinstance(value, Mapping):
        nested = next((value[key] for key in _NESTINGS if isinstance(value.get(key), Mapping)), None)
        if nested is None:
            break
        value = nested
    if not isinstance(value, Mapping) or not value:
        kind = "an empty mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise SourceError(f"{path} holds {kind}, not a state dict", hint=_SAFE_HINT)
    others = [str(key) for key, entry in value.items() if not isinstance(entry, Tensor)]
    if others:
        raise SourceError(
            f"{path} is not a state dict: not all of its entries are tensors",
            why="not tensors: " + ", ".join(others[:6]) + (" ..." if len(others) > 6 else ""),
            hint=_SAFE_HINT,
        )
    return {str(key): entry for key, entry in value.items()}


def _unprefixed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state`` without the prefixes that training wrappers add, unless the model's own names have them."""
    own = model.state_dict().keys()
    for prefix in _PREFIXES * 2:  # either may wrap the other
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): entry for key, entry in state.items()}
    return state


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """One paragraph per kind of disagreement between ``state`` and the model; empty when it fits."""
    own = model.state_dict(keep_vars=True)
    loaded = {id(own[key]) for key in state if key in own}
    missing = [
        key
        for key, entry in own.items()
        # A tied weight arrives under its other name; old files lack BatchNorm's batch counter.
        if key not in state and id(entry) not in loaded and not key.endswith(".num_batches_tracked")
    ]
    unexpected = sorted(key for key in state if key not in own)
    shapes = [
        f"{key}: {_sizes(entry)} in the file, {_sizes(own[key])} in the model"
        for key, entry in state.items()
        if key in own and entry.shape != own[key].shape
    ]
    groups = {
        "missing from the file": missing,
        "not in the model": unexpected,
        "of another shape": shapes,
    }
    return [line for title, keys in groups.items() for line in _listed(title, keys)]


def _listed(title: str, keys: list[str], most: int = 4) -> list[str]:
    if not keys:
        return []
    more = [f"  ... and {len(keys) - most} more"] if len(keys) > most else []
    return [f"{len(keys)} {title}:", *(f"  {key}" for key in keys[:most]), *more]


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

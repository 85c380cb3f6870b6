"""A converted model in a folder: plan, weights and report, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from octify.artefact.files import PLAN, WEIGHTS
from octify.checks.door import check_model
from octify.compat import with_versions
from octify.errors import PlanError, SourceError
from octify.passes.consistent import leaves_of
from octify.passes.rewrite import as_model, rewrite
from octify.plan import Plan
from octify.trace import trace


def load(directory: str | Path, model: nn.Module) -> nn.Module:
    """Load the converted model saved in ``directory``.

    Parameters
    ----------
    directory:
        Folder that ``Result.save`` wrote.
    model:
        The original model (its factory's output; its weights do not matter).

    Raises
    ------
    PlanError
        The plan is missing, or was made for another model.
    SourceError
        The weights are missing or do not fit.
    """
    check_model(model)
    folder = Path(directory)
    plan = Plan.load(folder / PLAN)
    inputs = [spec.example() for spec in plan.inputs]
    traced = trace(model, inputs, leaves=leaves_of(plan, model), inside=plan.inside)
    converted = as_model(traced, rewrite(traced, plan).module, plan)
    weights = folder / WEIGHTS
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise SourceError("the weights cannot be read", where=str(weights), why=str(error)) from None
    _take_biases(converted, state)
    try:
        converted.load_state_dict(with_versions(state, converted))
    except RuntimeError as error:
        raise PlanError("the weights do not fit the model", where=str(weights), why=str(error)) from None
    return converted


def _take_biases(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give convolutions the biases that calibration added to them."""
    own = module.state_dict()
    for name, value in state.items():
        path, _, kind = name.rpartition(".")
        if kind != "bias" or name in own or f"{path}.weight" not in own:
            continue
        owner = module.get_submodule(path)
        if getattr(owner, "bias", value) is None:
            weight = owner.get_parameter("weight")
            owner.bias = nn.Parameter(torch.empty_like(value), requires_grad=weight.requires_grad)

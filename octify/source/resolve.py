"""Construction of the model of a parsed target, and the input information of its origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from octify.source import zoo
from octify.source.candidates import default_candidate, make_model, named_candidate
from octify.source.execute import import_module, run_file, running
from octify.source.target import ModelSpec


@dataclass(frozen=True)
class Built:
    """Model with its origin's information on inputs: a function that returns them, or a shape."""

    model: nn.Module
    where: str
    example_inputs: Callable[[], object] | None = None
    default_shape: str | None = None


def build(target: ModelSpec) -> Built:
    """Build the model ``target`` names; SourceError when that fails, with the place in the user's code."""
    if target.kind == "timm":
        model, shape = zoo.timm_model(str(target.name))
        return Built(model, f"timm:{target.name}", default_shape=shape)
    if target.kind == "torchvision":
        model, shape = zoo.torchvision_model(str(target.name))
        return Built(model, f"torchvision:{target.name}", default_shape=shape)
    module = run_file(target.place) if target.kind == "file" else import_module(target.place)
    if target.name is None:
        candidate = default_candidate(module, target.place)
    else:
        candidate = named_candidate(module, target.place, target.name)
    model = make_model(candidate, module)
    if not hasattr(module, "example_inputs"):
        return Built(model, candidate.where)
    declared = module.example_inputs

    def example_inputs() -> object:
        if not callable(declared):
            return declared
        with running(module, f"{target.place}:example_inputs"):
            return declared()

    return Built(model, f"{target.place}:example_inputs", example_inputs)

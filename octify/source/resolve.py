"""Construction of the model of a parsed target, and the input information of its origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module as import_source

from torch import nn

from octify.source.candidates import default_candidate, make_model, named_candidate
from octify.source.execute import import_module, run_file, running
from octify.source.target import ModelSpec

# Module of this package for each prefix: its ``build`` returns the model and shapes of its inputs.
_SOURCES = {
    "timm": "zoo",
    "torchvision": "zoo",
    "hf": "huggingface",
    "ultralytics": "ultralytics",
    "smp": "smp",
    "diffusers": "diffusers",
    "onnx": "onnx",
}


@dataclass(frozen=True)
class Built:
    """Model with its origin's information on inputs: a function that returns them, or shapes."""

    model: nn.Module
    where: str
    example_inputs: Callable[[], object] | None = None
    default_shapes: Sequence[str] = ()


def build(target: ModelSpec) -> Built:
    """Build the model ``target`` names; SourceError when that fails, with the place in the user's code."""
    if target.kind in _SOURCES:
        source = import_source(f"octify.source.{_SOURCES[target.kind]}")
        model, shapes = source.build(target)
        return Built(model, f"{target.kind}:{target.name}", default_shapes=shapes)
    module = run_file(target.place) if target.kind == "file" else import_module(target.place)
    if target.name is None:
        candidate = default_candidate(module, target.place)
    else:
        candidate = named_candidate(module, target.place, target.name)
    model = make_model(candidate, module, target.arguments)
    if not hasattr(module, "example_inputs"):
        return Built(model, candidate.where)
    declared = module.example_inputs

    def example_inputs() -> object:
        if not callable(declared):
            return declared
        with running(module, f"{target.place}:example_inputs"):
            return declared()

    return Built(model, f"{target.place}:example_inputs", example_inputs)

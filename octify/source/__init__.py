"""Sources of models: a file, a module, a package's models by name, an ONNX file.

``load_source`` builds the model, loads its weights and finds example inputs. Running a model file runs
its code. Importing this package does not import torch; loading a model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octify.source.shape import parse_shape
from octify.source.target import ModelSpec, parse_target

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ModelSpec", "Source", "load_source", "load_weights", "parse_shape", "parse_target"]


@dataclass(frozen=True)
class Source:
    """Model in eval mode, and inputs it accepts.

    ``name`` is a short name fit for a file; ``file`` the model file, for a target that is one;
    ``target`` what the user typed.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    name: str
    file: Path | None
    target: str


def load_source(
    target: str, *, weights: Path | None = None, inputs: Sequence[str] = (), seed: int = 0
) -> Source:
    """Build the model that ``target`` names, load ``weights`` into it and make its example inputs.

    Parameters
    ----------
    target:
        ``file.py``, ``file.py:name``, ``pkg.mod:name``, ``timm:name``, ``torchvision:name``, ``hf:name``,
        ``ultralytics:name.yaml``, ``smp:name``, ``diffusers:FOLDER:decoder`` or ``onnx:FILE``. A name may
        have literal arguments: ``file.py:Net(width=8)``.
    weights:
        A ``.safetensors`` file or a state dict readable with ``weights_only=True``.
    inputs:
        One shape per input, such as ``1x3x224x224`` or ``1x16:int64``. Without any: the file's
        ``example_inputs``, else the size a zoo model was made for, else ``1x3x224x224``. Numbers are in
        float32, or in the format of the model's parameters if it takes no others.
    seed:
        Seeds torch before the model is built, and the random example inputs.

    Raises
    ------
    SourceError
        The model, its weights or its inputs cannot be had; says where and why.
    """
    import torch

    from octify.source.dtype import in_models_dtype
    from octify.source.inputs import make_inputs
    from octify.source.resolve import build

    parsed = parse_target(target)
    shapes = [parse_shape(text) for text in inputs]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = build(parsed)
        if weights is not None:
            load_weights(built.model, weights)
        examples = in_models_dtype(built.model, make_inputs(shapes, built, seed))
    return Source(built.model.eval(), examples, parsed.short_name, parsed.file, target)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the state dict in ``path`` into ``model``, in place and completely; see ``source.weights``."""
    from octify.source import weights

    weights.load_weights(model, path)

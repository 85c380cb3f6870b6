"""Questions about what a traced value is: ``isinstance(x, Tensor)``, ``hasattr(x, "tensors")``.

A proxy answers them as the tensor would once its value on a fake tensor is known. In plain tracing it is not,
and an answer would be a guess: the question is noted (``tracer.asks_types``), and the model is traced again
with values known. PyTorch and octify ask all the time, and mean the proxy; only the model's own code counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, fx

TORCH = f"{Path(torch.__file__).parent}{os.sep}"  # not torchvision, which begins like it
OCTIFY = f"{Path(__file__).parent.parent}{os.sep}"
# Beginnings of names of files that are not the model's. A notebook's cell is ("<ipython-input-1>").
FOREIGN = (TORCH, OCTIFY, "<eval_with_key>")
_TYPED_IN = ("<ipython-input", "<stdin>", "<python-input", "<fuzz program")
_FOR_OTHERS = (
    "is_tensor",
    "is_storage",
    "isinstance",
    "_isinstance",
)  # functions of torch's that ask in the name of their callers

# Attributes and methods of a tensor that depend neither on its values nor on its sizes.
_ATTRIBUTES = frozenset(
    {
        *("dtype", "device", "layout", "requires_grad", "is_leaf", "is_cuda", "is_cpu", "is_mps", "is_xpu"),
        *("is_meta", "is_quantized", "is_sparse", "is_mkldnn", "is_nested", "names", "itemsize"),
        *("type", "index"),  # of a device
    }
)
_METHODS = frozenset(
    {
        *("is_floating_point", "is_complex", "is_signed", "is_inference", "is_conj", "is_neg", "dim"),
        *("ndimension", "element_size", "get_device", "has_names", "type"),
    }
)
_FUNCTIONS = frozenset(
    {torch.is_floating_point, torch.is_complex, torch.is_conj, torch.is_neg, torch.is_inference}
)


def by_the_model() -> bool:
    """Return whether the model's own code asks the current question, itself or through octify's stand-ins."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OCTIFY) and frame.f_code.co_name not in _FOR_OTHERS:
            return is_the_models(frame)
        frame = frame.f_back
    return False


def is_the_models(frame: FrameType) -> bool:
    """Return whether a frame runs neither PyTorch's code, nor octify's, nor a graph's, nor generated code."""
    return is_the_models_file(frame.f_code.co_filename)


def is_the_models_file(name: str) -> bool:
    """Return whether a file may hold a model's code; a notebook's cell and standard input are files, too."""
    return not name.startswith((TORCH, OCTIFY)) and (name[:1] != "<" or name.startswith(_TYPED_IN))


def is_of_octify(frame: FrameType) -> bool:
    """Return whether a frame runs octify's own code."""
    return frame.f_code.co_filename.startswith(OCTIFY)


def is_of_types(node: fx.Node) -> bool:
    """Return whether a value follows from the types of tensors alone, whatever their values and sizes are."""
    if node.op == "call_method":
        return node.target in _METHODS and len(node.args) == 1 and not node.kwargs
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    if node.target in _FUNCTIONS:
        return True
    comparing = getattr(node.target, "__module__", "") == "_operator"
    return comparing and bool(node.all_input_nodes) and all(map(is_of_types, node.all_input_nodes))


def lacks(value: object, name: str) -> bool:
    """Return whether ``value`` is a tensor without the attribute ``name``, which proxies have of any name."""
    return isinstance(value, Tensor) and not hasattr(Tensor, name)

"""Check whether the labels of the data fit the model's output."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from octify.errors import OctifyError
from octify.tune.data import Samples
from octify.tune.options import Labels


def use_labels(
    samples: Samples, labels: Tensor | None, outputs: Sequence[Tensor], request: Labels
) -> tuple[bool, str | None]:
    """Decide whether to train with labels; return the reason if those of the data are not used.

    ``labels`` and ``outputs`` are those of a first batch. Raises OctifyError when labels are required and
    cannot be had.
    """
    if request == "none":
        return False, None
    refusal = None if labels is None else _refusal(samples, labels, outputs)
    if labels is not None and refusal is None:
        return True, None
    if request == "required":
        raise OctifyError(
            "there are no labels to train with",
            why=refusal or "the data has none",
            hint="a folder of class folders, a tensor called labels beside the inputs, or a loader of"
            " (input, label)",
        )
    return False, None if refusal is None else f"the labels are not used: {refusal}"


def _refusal(samples: Samples, labels: Tensor, outputs: Sequence[Tensor]) -> str | None:
    if len(outputs) != 1:
        return f"the model has {len(outputs)} outputs"
    shape = tuple(outputs[0].shape)
    fits = len(shape) == labels.ndim + 1 and shape[1] > 1 and shape[2:] == tuple(labels.shape[1:])
    if not fits:
        return (
            f"for labels {_sizes(labels.shape)} a model answers with one number a class for each, and this"
            f" one's output is {_sizes(shape)}"
        )
    if samples.classes is not None and len(samples.classes) != shape[1]:
        return f"there are {len(samples.classes)} class folders, and the model has {shape[1]} classes"
    return None


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))

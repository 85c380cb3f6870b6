"""Comparison of an exported file's outputs with the model's, and its tolerance.

The tolerance is the model's own: the largest difference between its float32 and its float64
output on the same input is what rounding does to it anyway. Another runtime rounds in another
order, and folded weights are rounded once more, so it may be off by a small multiple of that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from octify.compat import tree_flatten_with_path, tree_map_only
from octify.trace.noise import FLOOR_ULPS, NOISE_FACTOR, gap, largest
from octify.trace.opened import opened

_EPS = torch.finfo(torch.float32).eps

Call = tuple[Sequence[Any], dict[str, Tensor]]  # inputs, and the outputs of ``run``


@dataclass(frozen=True)
class Parity:
    """Distance between two sets of outputs: that of the output closest to its tolerance."""

    output: str
    max_abs_error: float
    max_rel_error: float  # max_abs_error / max |expected|
    tolerance: float  # absolute

    @property
    def passed(self) -> bool:
        return self.max_abs_error <= self.tolerance

    @property
    def margin(self) -> float:
        """Error in units of the tolerance: above 1 is a failure."""
        return self.max_abs_error / self.tolerance if self.tolerance > 0 else float(self.max_abs_error > 0)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs, flattened: one name, float32 (or integer) tensor and noise for each."""

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    noise: tuple[float, ...]


def float32_noise(model: nn.Module, calls: Sequence[Call]) -> list[Outputs]:
    """Compute the outputs of ``model`` (float32, eval) in every call, with its rounding noise in each.

    Noise is max |y32 - y64|. Where the model cannot run in float64 (a hard-coded dtype), it is the
    change in the output when the input is moved by one unit in the last place.
    """
    wide = copy.deepcopy(model).double()
    measured = []
    for inputs, expected in calls:
        try:
            other = run(wide, _floats_to(inputs, torch.float64))
        except Exception:  # whatever a model with a hard-coded float32 raises
            other = run(model, _nudged(inputs))
        noise = tuple(gap(a, b) for a, b in zip(expected.values(), other.values(), strict=True))
        measured.append(Outputs(tuple(expected), tuple(expected.values()), noise))
    return measured


def run(model: nn.Module, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """Run ``model``; return the tensors in its output (any nesting of tuples, lists and dicts) by name."""
    own = tree_map_only(Tensor, torch.clone, tuple(inputs))  # a first layer may work in place
    with torch.no_grad():
        leaves, _ = tree_flatten_with_path(opened(model(*own)))
    tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) == 1 and not tensors[0][0]:
        return {"output": tensors[0][1]}
    return {_name(path): leaf for path, leaf in tensors}


def compare(expected: Outputs, actual: Sequence[Tensor]) -> Parity:
    """Judge ``actual`` against ``expected``; another number of outputs, or another shape, is infinitely far.

    The tolerance of an output y is ``max(NOISE_FACTOR * noise, FLOOR_ULPS * eps * max |y|)``, and
    0 for integers and booleans.
    """
    if len(expected.values) != len(actual):
        return Parity("(number of outputs)", float("inf"), float("inf"), 0.0)
    judged = []
    for name, want, got, noise in zip(expected.names, expected.values, actual, expected.noise, strict=True):
        magnitude = largest(want)
        tolerance = max(NOISE_FACTOR * noise, FLOOR_ULPS * _EPS * magnitude)
        if not want.is_floating_point():
            tolerance = 0.0
        error = gap(want, got)
        judged.append(Parity(name, error, error / magnitude if magnitude else error, tolerance))
    return max(judged, key=lambda parity: parity.margin)


def _floats_to(inputs: Sequence[Any], dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, tuple(inputs))


def _nudged(inputs: Sequence[Any]) -> Any:
    def nudge(x: Tensor) -> Tensor:
        return torch.nextafter(x, torch.full_like(x, float("inf"))) if x.is_floating_point() else x

    return tree_map_only(Tensor, nudge, tuple(inputs))


def _name(path: Sequence[Any]) -> str:
    """``{"out": (a, b)}`` -> ``out_0``, ``out_1``; a plain tuple -> ``output_0``, ``output_1``."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return "_".join(keys if not keys[0].isdigit() else ["output", *keys])

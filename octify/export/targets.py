"""Targets of exported files: the rewrite rules of ``octify.export.deploy`` that each runtime gets.

A rule that is not in ``LIMITS`` is for every target. docs/works-with.md says what was measured.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from octify.errors import OctifyError


class ExportTarget(str, enum.Enum):
    """A runtime, and the precision in which it will run the file."""

    onnxruntime = "onnxruntime"
    onnxruntime_int8 = "onnxruntime-int8"
    openvino = "openvino"
    openvino_int8 = "openvino-int8"
    ncnn = "ncnn"


EVERY = frozenset(ExportTarget)
FLOAT = frozenset({ExportTarget.onnxruntime})
INT8 = frozenset({ExportTarget.onnxruntime_int8})


@dataclass(frozen=True)
class Limit:
    """The targets that a rule is for, and why not for the others."""

    targets: frozenset[ExportTarget]
    reason: str


_BY_ONE = "only onnxruntime's float kernels stay in their blocked layout for it; others make one more pass"
_WIDENING = "OpenVINO's float kernels fuse a sum with any activation, and copy for a Concat"

LIMITS: Mapping[str, Limit] = {
    "ActivationOfSum(Clip)": Limit(FLOAT, _BY_ONE),
    "ActivationOfSum(LeakyRelu)": Limit(FLOAT, _BY_ONE),
    "HalvingPoolToConvolution": Limit(
        EVERY - {ExportTarget.openvino, ExportTarget.openvino_int8},
        "OpenVINO's average pooling is as fast, and quantizers for it leave such a convolution in float",
    ),
    "WideningOfHigh": Limit(EVERY - {ExportTarget.openvino}, _WIDENING),
    "WideningOfLow": Limit(EVERY - {ExportTarget.openvino}, _WIDENING),
    "OddPoolToConvolution": Limit(
        INT8, "in float the pooling takes no longer; onnxruntime's integer average pooling is slow"
    ),
}


def target_named(name: str | ExportTarget) -> ExportTarget:
    """The target called ``name``. Raises OctifyError when there is none."""
    try:
        return ExportTarget(name)
    except ValueError:
        names = ", ".join(target.value for target in ExportTarget)
        raise OctifyError(f"there is no export target {name!r}", hint=f"use one of {names}") from None


def is_for(rule: object, target: ExportTarget) -> bool:
    """Return whether ``rule`` is applied to files for ``target``."""
    limit = LIMITS.get(name_of(rule))
    return limit is None or target in limit.targets


def name_of(rule: object) -> str:
    """Name of a rewrite rule: its own or, of one that has no pattern, its class's."""
    return str(getattr(rule, "name", type(rule).__name__))

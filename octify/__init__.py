"""octify: conversion of PyTorch CNNs to octave convolution (Chen et al., ICCV 2019).

>>> result = octify.convert(model, torch.randn(1, 3, 224, 224), alpha=0.5)
>>> print(result.report)

Importing octify does not import torch; the first use of a function does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octify.api import convert, inspect, profile, reference
    from octify.artefact.conversion import load
    from octify.conversion import Result
    from octify.errors import OctifyError
    from octify.export import (
        ExportResult,
        ProgramResult,
        RuntimeResult,
        export_coreml,
        export_executorch,
        export_litert,
        export_onnx,
        export_openvino,
        export_program,
    )
    from octify.int8 import Int8Result, export_int8
    from octify.latency.bench import bench
    from octify.latency.rows import BenchResult
    from octify.plan import ConvPlan, Plan
    from octify.report import Report
    from octify.sweeps.run import SweepResult, sweep
    from octify.sweeps.sensitivity import SensitivityResult, sensitivity

__version__ = "0.1.0"

_HOME = {
    "BenchResult": "octify.latency.bench",
    "ConvPlan": "octify.plan",
    "ExportResult": "octify.export",
    "Int8Result": "octify.int8",
    "OctifyError": "octify.errors",
    "Plan": "octify.plan",
    "ProgramResult": "octify.export",
    "Report": "octify.report",
    "Result": "octify.api",
    "RuntimeResult": "octify.export",
    "SensitivityResult": "octify.sweeps.sensitivity",
    "SweepResult": "octify.sweeps.run",
    "bench": "octify.latency.bench",
    "convert": "octify.api",
    "export_coreml": "octify.export",
    "export_executorch": "octify.export",
    "export_int8": "octify.int8",
    "export_litert": "octify.export",
    "export_onnx": "octify.export",
    "export_openvino": "octify.export",
    "export_program": "octify.export",
    "inspect": "octify.api",
    "load": "octify.api",
    "profile": "octify.api",
    "reference": "octify.api",
    "sensitivity": "octify.sweeps.sensitivity",
    "sweep": "octify.sweeps.run",
}

__all__ = [
    "BenchResult",
    "ConvPlan",
    "ExportResult",
    "Int8Result",
    "OctifyError",
    "Plan",
    "ProgramResult",
    "Report",
    "Result",
    "RuntimeResult",
    "SensitivityResult",
    "SweepResult",
    "bench",
    "convert",
    "export_coreml",
    "export_executorch",
    "export_int8",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_program",
    "inspect",
    "load",
    "profile",
    "reference",
    "sensitivity",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'octify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

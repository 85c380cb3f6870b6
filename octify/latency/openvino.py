"""OpenVINO on the CPU as a runtime of ``octify bench``: pip install 'octify[openvino]'.

Float files run in float32 but where the processor multiplies bfloat16 in matrix tiles (AMX): elsewhere
OpenVINO takes bfloat16 by default as soon as an instruction knows it, which is slower. Files with
QuantizeLinear run in int8.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from octify.compat import tree_leaves
from octify.errors import ExportError, OctifyError

INSTALL = "pip install 'octify[openvino]'"
_TILES = "amx_bf16"  # in which bfloat16 is faster than float32


def missing() -> str | None:
    """None, or why OpenVINO cannot be used here."""
    if importlib.util.find_spec("openvino") is None:
        return f"it is not installed; {INSTALL}"
    return None


def compiled(path: Path, threads: int, *, counting: bool = False) -> Any:
    """The compiled model of an ONNX file, for the shortest time of one call on ``threads`` threads.

    ``counting``: the time of every node is counted.

    Raises ExportError when OpenVINO cannot load it.
    """
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # The process may be pinned already, to another core than OpenVINO would choose.
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": counting,
    }
    if not has_tiles():
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        return openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:  # OpenVINO's own, which share no base class
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        why = lines[-1] if lines else type(error).__name__
        raise ExportError("OpenVINO cannot load the file", where=str(path), why=why) from error


def prepared(path: Path, inputs: Sequence[Tensor], threads: int) -> Callable[[], list[Any]]:
    """A call of ``path`` on ``inputs`` that returns its outputs as arrays, in order."""
    model = compiled(path, threads)
    tensors = [x for x in tree_leaves(tuple(inputs)) if isinstance(x, Tensor)]
    if len(model.inputs) != len(tensors):
        raise OctifyError(
            f"the ONNX file takes {len(model.inputs)} input(s), {len(tensors)} were given",
            hint="give one --input for each",
        )
    request = model.create_infer_request()
    arrays = [np.ascontiguousarray(x.detach().cpu().numpy()) for x in tensors]

    def run() -> list[Any]:
        answers = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [answers[output] for output in model.outputs]

    return run


def has_tiles() -> bool:
    """Return whether the processor multiplies bfloat16 in tiles, as far as the system tells."""
    with contextlib.suppress(OSError):
        return _TILES in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return False

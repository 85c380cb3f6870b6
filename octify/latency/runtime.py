"""Runtimes for timing: one function each, from a model to a callable.

``RUNTIMES`` is the table; a new runtime is one more entry.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from octify.compat import freezing, tree_leaves
from octify.errors import ExportError, OctifyError
from octify.export.fold import fold_batchnorm
from octify.export.merge import merge_low_paths
from octify.export.program import captured
from octify.export.targets import ExportTarget
from octify.latency import ncnn, openvino

Run = Callable[[], object]
Model = nn.Module | Path


@dataclass(frozen=True)
class Setting:
    """Settings of a contestant's run.

    threads:
        Number of threads of one operator; a runtime gets no others.
    device:
        Device of PyTorch's runtimes.
    """

    threads: int = 1
    device: str = "cpu"


def _onnxruntime(provider: str) -> Callable[[Model, Sequence[Tensor], Setting], Run]:
    def prepare(model: Model, inputs: Sequence[Tensor], setting: Setting) -> Run:
        assert isinstance(model, Path)
        session = session_of(model, setting.threads, provider)
        feed = feed_of(session, inputs)
        return lambda: session.run(None, feed)

    return prepare


def session_of(
    path: Path, threads: int, provider: str = "CPUExecutionProvider", profile: str | None = None
) -> onnxruntime.InferenceSession:
    """Open a session of ``path`` with all of onnxruntime's optimisations; ``profile`` is a file's prefix."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's own, which share no base class
        text = str(error).strip().splitlines()[0]
        raise ExportError("onnxruntime cannot load the file", where=str(path), why=text) from error


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def declared_inputs(path: Path) -> list[str]:
    """Inputs that an ONNX file declares, as ``1x3x224x224`` or ``1x16:int64``; an open batch is 1.

    Raises OctifyError when another dimension is open.
    """
    shapes = []
    for value in session_of(path, 1).get_inputs():
        sizes = [1 if axis == 0 and not isinstance(n, int) else n for axis, n in enumerate(value.shape)]
        if value.type not in _DTYPES or not all(isinstance(n, int) for n in sizes):
            raise OctifyError(
                f"{path.name} leaves the shape of its input open",
                why=f"{value.name} is {value.type} of {value.shape}",
                hint="--input 1x3x224x224",
            )
        shapes.append("x".join(map(str, sizes)) + f":{_DTYPES[value.type]}")
    return shapes


def feed_of(session: onnxruntime.InferenceSession, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Map ``inputs`` to the file's names. Raises OctifyError when it takes more or fewer."""
    values = session.get_inputs()
    tensors = [x for x in tree_leaves(tuple(inputs)) if isinstance(x, Tensor)]
    if len(values) != len(tensors):
        raise OctifyError(
            f"the ONNX file takes {len(values)} input(s), {len(tensors)} were given",
            hint="give one --input for each",
        )
    return {
        value.name: np.ascontiguousarray(x.detach().cpu().numpy())
        for value, x in zip(values, tensors, strict=True)
    }


def _openvino(model: Model, inputs: Sequence[Tensor], setting: Setting) -> Run:
    assert isinstance(model, Path)
    return openvino.prepared(model, inputs, setting.threads)


def _ncnn(model: Model, inputs: Sequence[Tensor], setting: Setting) -> Run:
    assert isinstance(model, Path)
    return ncnn.prepared(model, inputs, setting.threads)


def _eager(memory_format: torch.memory_format) -> Callable[[Model, Sequence[Tensor], Setting], Run]:
    def prepare(model: Model, inputs: Sequence[Tensor], setting: Setting) -> Run:
        ready, images = _in_format(model, inputs, memory_format, setting.device)
        return _inference(ready, images, setting.device)

    return prepare


def _compiled(model: Model, inputs: Sequence[Tensor], setting: Setting) -> Run:
    """Compile with inductor, weights frozen and channels last, as PyTorch's CPU guide advises.

    Compiles the program that ``octify.export_program`` writes or, where it cannot, the module.
    """
    ready, images = _in_format(model, inputs, torch.channels_last, setting.device)
    with contextlib.suppress(ExportError):
        ready = captured(merge_low_paths(ready), images, dynamic_batch=False).module()

    with freezing() as options:
        compiled = torch.compile(ready, options=options)
        run = _inference(compiled, images, setting.device)
        run()  # compiles here, while the setting holds
    return run


def _in_format(
    model: Model, inputs: Sequence[Tensor], memory_format: torch.memory_format, device: str
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Folded copy of ``model`` and its inputs on a device, images in a memory format."""
    assert isinstance(model, nn.Module)
    own = copy.deepcopy(model).eval().requires_grad_(False)
    ready = fold_batchnorm(own, tuple(inputs))
    ready = ready.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    there = (x.to(device) for x in inputs)
    return ready, tuple(x.to(memory_format=memory_format) if x.ndim == 4 else x for x in there)


def _inference(model: Any, inputs: Sequence[Tensor], device: str) -> Run:
    def run() -> object:
        with torch.inference_mode():
            return model(*inputs)

    def run_and_wait() -> object:
        answer = run()
        torch.cuda.synchronize(device)  # a call returns before the GPU has done its work
        return answer

    return run if torch.device(device).type == "cpu" else run_and_wait


@dataclass(frozen=True)
class Runtime:
    """A way to run a model.

    takes:
        ``"onnx"``: files (modules are exported for it); ``"module"``: modules alone.
    available:
        None, or why it cannot be used here.
    target:
        What modules are exported for.
    int8:
        Whether they are quantized.
    session:
        Whether it is onnxruntime on the CPU, whose memory and operators can be measured.
    """

    takes: str
    prepare: Callable[[Model, Sequence[Tensor], Setting], Run]
    available: Callable[[], str | None] = lambda: None
    target: ExportTarget = ExportTarget.onnxruntime
    int8: bool = False
    session: bool = False


def _without_cuda() -> str | None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    return "this onnxruntime has no CUDA provider; pip install onnxruntime-gpu on a machine with a GPU"


def _without_compiler() -> str | None:
    compiler = os.environ.get("CXX")
    if any(shutil.which(name) for name in ((compiler,) if compiler else ("g++", "clang++", "cl"))):
        return None
    return "inductor needs a C++ compiler, and there is none here (g++, clang++, or what CXX names)"


_CPU = _onnxruntime("CPUExecutionProvider")

RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime("onnx", _CPU, session=True),
    "onnxruntime-int8": Runtime("onnx", _CPU, target=ExportTarget.onnxruntime_int8, int8=True, session=True),
    "onnxruntime-cuda": Runtime("onnx", _onnxruntime("CUDAExecutionProvider"), _without_cuda),
    "openvino": Runtime("onnx", _openvino, openvino.missing, target=ExportTarget.openvino),
    "openvino-int8": Runtime(
        "onnx", _openvino, openvino.missing, target=ExportTarget.openvino_int8, int8=True
    ),
    "ncnn": Runtime("onnx", _ncnn, ncnn.missing, target=ExportTarget.ncnn),
    "eager": Runtime("module", _eager(torch.contiguous_format)),
    "channels-last": Runtime("module", _eager(torch.channels_last)),
    "compile": Runtime("module", _compiled, _without_compiler),
}

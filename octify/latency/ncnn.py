"""ncnn on the CPU as a runtime of ``octify bench``: pip install 'octify[ncnn]'.

pnnx, ncnn's own converter, makes its format of the ONNX file. Everything is computed in float32. ncnn's maps
have no batch dimension: it is timed at batch 1.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octify.compat import tree_leaves
from octify.errors import ExportError, OctifyError

INSTALL = "pip install 'octify[ncnn]'"
_HALF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage")


def missing() -> str | None:
    """None, or why ncnn cannot be used here."""
    absent = [name for name in ("ncnn", "pnnx") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed; {INSTALL}" if absent else None


def converted(path: Path, inputs: Sequence[Tensor], folder: Path) -> tuple[Path, Path]:
    """ncnn's two files, structure and weights, of an ONNX file for ``inputs``, in ``folder``.

    Raises ExportError when pnnx cannot convert it.
    """
    spec = importlib.util.find_spec("pnnx")
    assert spec is not None and spec.origin is not None
    program = next(
        p for p in Path(spec.origin).parent.glob("pnnx*") if p.is_file() and p.suffix in ("", ".exe")
    )
    param, weights = folder / "net.param", folder / "net.bin"
    shapes = ",".join("[" + ",".join(map(str, x.shape)) + "]" for x in inputs)
    # Beside the files that are asked for it writes others, named after its input, into the folder of that.
    own = folder / "net.onnx"
    own.write_bytes(path.read_bytes())
    command = [
        str(program),
        str(own),
        f"ncnnparam={param}",
        f"ncnnbin={weights}",
        "fp16=0",
        f"inputshape={shapes}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode or not param.is_file() or not weights.is_file():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = lines[-1] if lines else f"pnnx ended with code {done.returncode}"
        raise ExportError("pnnx cannot convert the file for ncnn", where=str(path), why=why)
    return param, weights


def prepared(path: Path, inputs: Sequence[Tensor], threads: int) -> Callable[[], list[Any]]:
    """A call of ``path`` on ``inputs`` (each of batch 1) that returns its outputs as arrays, in order."""
    import ncnn

    tensors = [x for x in tree_leaves(tuple(inputs)) if isinstance(x, Tensor)]
    if any(x.dtype != torch.float32 or x.ndim < 2 or len(x) != 1 for x in tensors):
        raise OctifyError(
            "ncnn takes float32 inputs of batch 1",
            why="inputs are " + " and ".join(f"{tuple(x.shape)} of {x.dtype}" for x in tensors),
            hint="--batch 1",
        )
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in _HALF:
        setattr(net.opt, f"use_{option}", False)
    with tempfile.TemporaryDirectory() as folder:
        param, weights = converted(path, tensors, Path(folder))
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise ExportError(
                "ncnn cannot load the file", where=str(path), why="it has layers that ncnn lacks"
            )
    mats = [ncnn.Mat(np.ascontiguousarray(x.detach().cpu().numpy()[0])) for x in tensors]
    if len(net.input_names()) != len(mats):
        raise OctifyError(
            f"the ONNX file takes {len(net.input_names())} input(s), {len(mats)} were given",
            hint="give one --input for each",
        )

    def run() -> list[Any]:
        extractor = net.create_extractor()
        for name, mat in zip(net.input_names(), mats, strict=True):
            extractor.input(name, mat)
        return [np.array(extractor.extract(name)[1])[None] for name in net.output_names()]

    return run

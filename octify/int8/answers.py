"""Answers of int8 files, and their agreement with those of the float file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from octify.calibrate.inputs.images import Images
from octify.compare.agreement import Agreement
from octify.compare.outputs import Output, compare
from octify.errors import CheckFailed, ExportError, OctifyError
from octify.export.calls import shortened
from octify.latency import openvino
from octify.latency.runtime import session_of
from octify.quantize.static import feed_of

Row = tuple[Tensor, ...]


def calls_of(chunk: Row, fixed: int | None) -> list[tuple[Row, int]]:
    """``chunk`` in calls of ``fixed`` rows, the last row repeated where they do not suffice; rows of each."""
    count = len(chunk[0])
    if fixed is None:
        return [(chunk, count)]
    calls = []
    for first in range(0, count, fixed):
        rows = torch.arange(first, first + fixed).clamp(max=count - 1)
        calls.append((tuple(x[rows] for x in chunk), min(fixed, count - first)))
    return calls


def answering(runtime: str) -> str:
    """The runtime that answers: onnxruntime where the other is not installed."""
    return "onnxruntime" if runtime == "openvino" and openvino.missing() else runtime


def agreement_of(best: Path, file: Path, images: Images, fixed: int | None, runtime: str) -> Agreement:
    """Agreement of ``file`` with the float file on the inputs kept aside, or on all if there are none."""
    chunks = images.held_out or images.chunks
    name = answering(runtime)
    try:
        exact, approximate = (_answers(each, chunks, fixed, name) for each in (best, file))
    except OctifyError:
        raise
    except Exception as error:  # the runtime's own, which share no base class
        raise ExportError(f"{name} does not run the int8 file", why=shortened(error)) from error
    if not exact:
        raise OctifyError("the model has no floating point output", why="there is nothing to compare")
    agreement = compare(exact, approximate, held_out=bool(images.held_out))
    if not math.isfinite(agreement.relative_error):
        raise CheckFailed(
            "the int8 file answers with values that are not finite where the float file does not"
        )
    return agreement


def _answers(file: Path, chunks: Sequence[Row], fixed: int | None, runtime: str) -> list[Output]:
    """Every floating point output of ``file`` over all ``chunks``."""
    parts: list[list[Tensor]] = []
    run = _runner(file, runtime)
    for chunk in chunks:
        for call, rows in calls_of(chunk, fixed):
            answers = [y[:rows] if y.ndim else y for y in run(call) if y.is_floating_point()]
            parts.append(answers)
    return [
        torch.cat([part if part.ndim else part[None] for part in each]) for each in zip(*parts, strict=True)
    ]


def _runner(file: Path, runtime: str) -> Any:
    names = [value.name for value in onnx.load(file, load_external_data=False).graph.input]
    if runtime == "openvino":
        model = openvino.compiled(file, torch.get_num_threads())

        def infer(call: Row) -> list[Tensor]:
            answers = model(list(feed_of(names, call).values()))
            return [torch.from_numpy(answers[output].copy()) for output in model.outputs]

        return infer
    session = session_of(file, torch.get_num_threads())
    return lambda call: [torch.from_numpy(y) for y in session.run(None, feed_of(names, call))]

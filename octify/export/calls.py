"""Helpers of every exporter: inputs, outputs at two batch sizes, error messages."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from octify.compare.rounding import Call, Outputs, Parity, compare, float32_noise, run
from octify.compat import tree_leaves, tree_map, tree_map_only
from octify.errors import CheckFailed, ExportError
from octify.trace.tracer import user_line

Checks = dict[int, tuple[Sequence[Any], Outputs]]  # by batch size: inputs and expected outputs


def as_inputs(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Move the inputs to the CPU, floating point ones in float32."""
    generator = torch.Generator().manual_seed(0)

    def prepared(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return torch.zeros_like(x, device="cpu") if x.is_meta else x.detach().cpu()
        return torch.randn(x.shape, generator=generator) if x.is_meta else x.detach().cpu().float()

    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    return tuple(tree_map_only(Tensor, prepared, inputs))


def batch_size(inputs: Sequence[Any]) -> int | None:
    """First dimension of the first tensor that has one."""
    return next((x.shape[0] for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.ndim), None)


def with_batch(inputs: Sequence[Any], size: int) -> tuple[Any, ...]:
    """Return the inputs at another batch size. New rows repeat the old ones, rotated."""
    batch = batch_size(inputs)

    def resized(x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[0] != batch:
            return x
        rows = [x[i % batch].roll(i // batch, -1) if x.ndim > 1 else x[i % batch] for i in range(size)]
        return torch.stack(rows)

    return tuple(tree_map_only(Tensor, resized, tuple(inputs)))


def expected_outputs(model: nn.Module, inputs: tuple[Any, ...], dynamic_batch: bool) -> Checks:
    """Compute the inputs of the check and the model's outputs, by batch size."""
    batch = batch_size(inputs)
    sizes = [batch or 1, (batch or 1) + 1] if dynamic_batch and batch is not None else [batch or 1]
    calls: dict[int, Call] = {}
    for size in sizes:
        call_inputs = inputs if size == batch or batch is None else with_batch(inputs, size)
        try:
            calls[size] = call_inputs, run(model, call_inputs)
        except Exception as error:
            if size != sizes[0]:
                raise fixed_batch(error) from error
            raise ExportError(
                "the model does not run on the example inputs",
                where=user_line(error),
                why=shortened(error),
                hint="give the size it was made for, for instance --input 1x3x224x224",
            ) from error
    measured = float32_noise(model, list(calls.values()))
    return {size: (calls[size][0], outputs) for size, outputs in zip(calls, measured, strict=True)}


def dynamic_shapes(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    batch, dim = batch_size(inputs), torch.export.Dim("batch")

    def shape(x: Any) -> dict[int, Any] | None:
        return {0: dim} if isinstance(x, Tensor) and x.ndim and x.shape[0] == batch else None

    return tuple(tree_map(shape, inputs))


def captures(model: nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...] | None) -> bool:
    """Return whether ``torch.export`` captures the model, a step that can fix the batch size."""
    try:
        torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception:  # the caller has the error of the export itself
        return False
    return True


def fixed_batch(error: BaseException | None) -> ExportError:
    return ExportError(
        "the model works at one batch size only",
        where=None if error is None else user_line(root(error)),
        why="its code fixes the batch size" if error is None else shortened(error),
        hint="export it for that batch size alone: dynamic_batch=False, or --static-batch",
    )


def judged(checks: Checks, answers: Mapping[int, Sequence[Tensor]], runtime: str, path: Path) -> Parity:
    """Return the smallest margin among the ``answers`` of ``runtime``. Raises CheckFailed on a mismatch."""
    compared = {size: compare(checks[size][1], answers[size]) for size in checks}
    size, worst = max(compared.items(), key=lambda item: item[1].margin)
    if not worst.passed:
        raise CheckFailed(
            "the exported file does not compute what the model computes",
            where=f"{worst.output}, batch {size}",
            why=f"max |{runtime} - PyTorch| is {worst.max_abs_error:.3g} ({worst.max_rel_error:.3g} of the "
            f"largest value); rounding explains {worst.tolerance:.3g}. {path} was not written",
        )
    return worst


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's progress, logs and warnings: failures come as exceptions.

    On a failure torch prints whole graphs on stderr.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def shortened(error: BaseException, limit: int = 300) -> str:
    """Type and first two lines of the innermost cause."""
    cause = root(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join([f"{type(cause).__name__}:", *lines[:2]])
    return text if len(text) <= limit else text[: limit - 3] + "..."

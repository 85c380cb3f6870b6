"""``octify.bench``: time models side by side in deployment runtimes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from octify.checks.door import check_count, check_inputs, check_model
from octify.errors import OctifyError
from octify.latency.device import require_device
from octify.latency.files import Contestant, Exports
from octify.latency.machine import facts, machine, versions
from octify.latency.memory import peak_of_call, peak_of_file
from octify.latency.profile import by_op_type
from octify.latency.rounds import MIN_SECONDS, ROUNDS, interleaved
from octify.latency.rows import BenchResult, BenchRow, OpTime, Timing
from octify.latency.runtime import RUNTIMES, Run, Setting
from octify.progress import Tell
from octify.trace import trace


def bench(
    models: Mapping[str, Contestant],
    example_inputs: Tensor | Sequence[Tensor],
    *,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    batches: Sequence[int] = (),
    rounds: int = ROUNDS,
    min_seconds: float = MIN_SECONDS,
    profile: bool = False,
    memory: bool = True,
    device: str = "cpu",
    progress: Tell = lambda phase: None,
) -> BenchResult:
    """Time models against each other in interleaved rounds.

    Parameters
    ----------
    models:
        Modules, or paths of ``.onnx`` files, by name. Speed-ups are relative to the first.
    example_inputs:
        A tensor (N, C, H, W), or a sequence of tensors.
    runtimes:
        Any of ``"onnxruntime"``, ``"onnxruntime-int8"``, ``"onnxruntime-cuda"``, ``"openvino"``,
        ``"openvino-int8"``, ``"ncnn"`` (batch 1), ``"eager"``, ``"channels-last"``, ``"compile"``. Modules
        are exported for the runtime at each batch size, BatchNorm folded, and checked; for int8 they are
        quantized with ranges of the example inputs, good for timing only. By default onnxruntime alone.
    threads:
        Number of threads of one operator.
    batches:
        Batch sizes to time at; the example's own by default. An ONNX file must take them.
    rounds, min_seconds:
        Number of rounds, and the least duration of each model's turn in seconds.
    profile:
        Also sum onnxruntime's kernel times by operator type.
    memory:
        Also measure peak memory.
    device:
        Device of PyTorch's runtimes: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    OctifyError
        An unknown runtime, one that is not available here, a file in a runtime for modules, or inputs
        that a model does not take.
    """
    inputs = check_inputs(example_inputs)
    if not isinstance(models, Mapping) or not models:
        raise OctifyError("there is nothing to time", hint='give models by name: {"original": model}')
    for model in models.values():
        if not isinstance(model, (str, Path)):
            check_model(model)
    check_count("rounds", rounds)
    check_count("threads", threads)
    for batch in batches:
        check_count("the batch size", batch)
    names = tuple(runtimes or ("onnxruntime",))
    _check(models, names)
    require_device(device, names)
    rows: list[BenchRow] = []
    with _threads(threads), contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        exports = Exports(models, folder, progress)
        macs = {name: _macs(model, inputs) for name, model in models.items()}
        for batch in batches or (len(inputs[0]),):
            resized = tuple(_of_batch(x, batch, len(inputs[0])) for x in inputs)
            for runtime in names:
                files = exports.of(RUNTIMES[runtime], resized)
                case = _Case(runtime, batch, Setting(threads, device), resized, files, macs, progress)
                timed = case.timed(models, rounds, min_seconds)
                rows += [case.row(name, *timed[name], profile, memory) for name in models]
    return BenchResult(tuple(rows), machine(), versions(), facts(threads))


def require_runtimes(names: Sequence[str]) -> None:
    """Raise OctifyError for a runtime that there is not, or that is not available here."""
    for name in names:
        runtime = RUNTIMES.get(name)
        if runtime is None:
            raise OctifyError(f"there is no runtime {name!r}", hint=f"use one of {', '.join(RUNTIMES)}")
        reason = runtime.available()
        if reason is not None:
            raise OctifyError(f"{name} is not available", why=reason)


def _check(models: Mapping[str, Contestant], runtimes: Sequence[str]) -> None:
    require_runtimes(runtimes)
    for name in runtimes:
        runtime = RUNTIMES[name]
        files = [key for key, model in models.items() if not isinstance(model, nn.Module)]
        if runtime.int8 and files:
            raise OctifyError(
                f"{name} quantizes modules, and {files[0]} is an ONNX file",
                hint=f"--runtime {name.removesuffix('-int8')} runs an int8 file as well as a float one",
            )
        if runtime.takes == "module" and files:
            raise OctifyError(
                f"{name} cannot run {files[0]}",
                why="it is an ONNX file, and this runtime runs PyTorch modules",
                hint="--runtime onnxruntime, or give the models themselves",
            )
    for name, model in models.items():
        if not isinstance(model, nn.Module) and not Path(model).is_file():
            raise OctifyError(f"no such file: {model}", hint=f"check the path of {name}")


def _macs(model: Contestant, inputs: Sequence[Tensor]) -> int | None:
    """MACs of a module for one sample batch of ``inputs``."""
    if not isinstance(model, nn.Module):
        return None
    return sum(counts.macs for counts in trace(model, inputs).facts.values())


def _of_batch(x: Tensor, batch: int, have: int) -> Tensor:
    if not x.ndim or x.shape[0] != have:
        return x
    return x[torch.arange(batch, device=x.device) % have].contiguous()


@dataclass(frozen=True)
class _Case:
    """One runtime at one batch size."""

    runtime: str
    batch: int
    setting: Setting
    inputs: tuple[Tensor, ...]
    files: Mapping[str, Path]
    macs: Mapping[str, int | None]
    progress: Tell

    def timed(
        self, models: Mapping[str, Contestant], rounds: int, min_seconds: float
    ) -> dict[str, tuple[Timing, Run]]:
        prepare, takes = RUNTIMES[self.runtime].prepare, RUNTIMES[self.runtime].takes
        runs: dict[str, Run] = {}
        for name, model in models.items():
            self.progress(f"preparing {name} in {self.runtime}")
            own = self.files[name] if takes == "onnx" else model
            runs[name] = prepare(own, self.inputs, self.setting)  # type: ignore[arg-type]
            self._try(name, runs[name])

        def tell(what: str, done: int, of: int) -> None:
            self.progress(f"{self.runtime}, batch {self.batch}: {what} ({done + 1} of {of})")

        timings = interleaved(
            runs, threads=self.setting.threads, rounds=rounds, min_seconds=min_seconds, progress=tell
        )
        return {name: (timings[name], runs[name]) for name in runs}

    def _try(self, name: str, run: Run) -> None:
        try:
            run()
        except Exception as error:  # whatever a runtime raises
            shapes = " and ".join("x".join(map(str, x.shape)) for x in self.inputs)
            raise OctifyError(
                f"{name} does not run in {self.runtime} on inputs of {shapes}",
                why=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
                hint="--input and --batch must be what the model takes",
            ) from error

    def row(self, name: str, timing: Timing, run: Run, profile: bool, memory: bool) -> BenchRow:
        first = next(iter(self.macs))
        mine, base = self.macs[name], self.macs[first]
        efficiency = timing.speedup * mine / base if mine and base else None
        return BenchRow(
            name,
            self.runtime,
            self.batch,
            self.setting.threads,
            timing,
            macs=mine,
            peak_bytes=self._peak(name, run) if memory else None,
            efficiency=efficiency,
            ops=self._ops(name) if profile else (),
        )

    def _peak(self, name: str, run: Run) -> int | None:
        if RUNTIMES[self.runtime].session:
            shapes = [(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in self.inputs]
            return peak_of_file(self.files[name], shapes, self.setting.threads)
        on_cpu = self.setting.device == "cpu" and self.runtime in ("eager", "channels-last")
        return peak_of_call(run) if on_cpu else None

    def _ops(self, name: str) -> tuple[OpTime, ...]:
        if not RUNTIMES[self.runtime].session:
            return ()
        return by_op_type(self.files[name], self.inputs, self.setting.threads)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

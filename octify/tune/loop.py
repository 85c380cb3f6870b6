"""The training loop, on one process or several of Hugging Face Accelerate."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from octify.compare.agreement import OutputError
from octify.errors import CheckFailed
from octify.progress import Tell
from octify.report.tuning import TuningRow
from octify.tune import checkpoint as checkpoints
from octify.tune.data import Samples
from octify.tune.measure import Measured
from octify.tune.options import Options
from octify.tune.run import Run
from octify.tune.stop import stops

_SKIPS = 25  # consecutive steps that fp16's loss scaler may skip
_TOLD_EVERY = 0.5  # seconds
_OFTEN = 100  # epochs


@dataclass(frozen=True)
class Tuned:
    """Result of a run.

    images:
        Number of training inputs.
    seconds:
        Duration, including that of the run it resumed.
    resumed_at:
        Number of steps of that run.
    main_process:
        Whether this process is the one that writes.
    """

    labelled: bool
    distill_weight: float
    augment: str
    batch: int
    images: int
    measured_on: int
    held_out: bool
    before: Measured
    after: Measured
    precision: str
    processes: int
    main_process: bool
    device: str
    seconds: float
    resumed_at: int
    warnings: tuple[str, ...]


def tune(
    student: nn.Module,
    teacher: nn.Module,
    samples: Samples,
    options: Options,
    *,
    checkpoint: Path,
    resume: bool = False,
    identity: Mapping[str, str] | None = None,
    progress: Tell = lambda what: None,
    warn: Tell = lambda what: None,
) -> Tuned:
    """Train ``student`` in place on the outputs of ``teacher``, its original, on labels, or on both.

    Parameters
    ----------
    checkpoint:
        File for the state, written every ``options.checkpoint_every`` steps, after the last one and
        on Ctrl-C or SIGTERM, which end the run after the step at hand. It is left there.
    resume:
        Continue from ``checkpoint``: on a CPU, and with as many processes, the result is bit for bit that of
        a run that was never stopped.
    identity:
        Further entries that identify this run, beside data and options.
    warn:
        Callback for warnings, called as soon as they arise.

    Every random choice is made from the seed and the number of the step; the batch is cut among the
    processes, so their number changes the result by rounding only (except for ``norm="batch"``).
    Seeds the global generators of random, numpy and torch.

    Raises OctifyError for data or labels that do not fit, or a checkpoint of another run; CheckFailed when
    the loss is no longer finite.
    """
    options.check()
    run = Run(student, teacher, samples, options, warn)
    names = _identity(run, samples, dict(identity or {}))
    resumed = checkpoints.load(checkpoint, names) if resume else None
    if resumed is None:
        before, seconds, start = _begun(run, progress), 0.0, 0
    else:
        checkpoints.restore(resumed, run.student, run.optimizer)
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(dict(resumed.scaler))
        before, seconds = Measured(**resumed.record["before"]), float(resumed.record["seconds"])
        start = resumed.step
    _warn_early(run, before)
    clock = time.perf_counter()

    def keep(step: int) -> None:
        if run.accelerator.is_main_process:
            scaler = run.accelerator.scaler
            state = checkpoints.capture(
                step,
                run.student,
                run.optimizer,
                scaler.state_dict() if scaler is not None else {},
                names,
                {"before": asdict(before), "seconds": seconds + time.perf_counter() - clock},
            )
            checkpoints.save(checkpoint, state)

    _steps(run, start, keep, progress)
    progress("measuring")
    after = run.measure()
    run.unwrap()
    _warn_late(run, before, after)
    return Tuned(
        labelled=run.labelled,
        distill_weight=run.weight,
        augment=run.augment,
        batch=run.batch_size,
        images=len(run.rows.train),
        measured_on=len(run.measured),
        held_out=bool(run.rows.held_out),
        before=before,
        after=after,
        precision=run.precision,
        processes=run.processes,
        main_process=run.accelerator.is_main_process,
        device=str(run.accelerator.device),
        seconds=seconds + time.perf_counter() - clock,
        resumed_at=start,
        warnings=tuple(run.warnings),
    )


def _begun(run: Run, progress: Tell) -> Measured:
    progress("measuring")
    before = run.measure()
    if run.options.norm == "reestimated":
        progress("re-estimating BatchNorm statistics")
        run.reestimate()
    return before


def _steps(run: Run, start: int, keep: Callable[[int], None], progress: Tell) -> None:
    """All steps from ``start`` on; a signal is raised again once the state is safe."""
    options = run.options
    clock = shown = time.perf_counter()
    bad = stop = 0
    with stops() as noted:
        for step in range(start, options.steps):
            loss = run.step(step)
            bad = 0 if math.isfinite(loss) else bad + 1
            if bad > (_SKIPS if run.precision == "fp16" else 0):
                raise _diverged(step, options.lr)
            now, done = time.perf_counter(), step + 1
            if now - shown > _TOLD_EVERY:
                shown = now
                left = (now - clock) / (done - start) * (options.steps - done)
                progress(f"tuning: step {done} of {options.steps}, loss {loss:.4g}, about {left:.0f} s left")
            stop = run.agreed(noted)
            every = options.checkpoint_every
            if stop or done == options.steps or (every and done % every == 0):
                keep(done)
            if stop:
                run.warn(f"stopped after step {done} of {options.steps}; --resume goes on from there")
                break
    if stop:
        run.accelerator.wait_for_everyone()
        signal.raise_signal(stop)


def _diverged(step: int, lr: float) -> CheckFailed:
    return CheckFailed(
        f"the loss is not finite at step {step + 1}",
        why=f"training diverged; the learning rate was {lr:g}",
        hint=f"--lr {lr / 10:g}, or a longer --warmup",
    )


def _warn_early(run: Run, before: Measured) -> None:
    seen = run.options.steps * run.batch_size / len(run.rows.train)
    if seen > _OFTEN:
        run.warn(
            f"each of the {len(run.rows.train)} inputs is seen {seen:.0f} times: more of them, or fewer"
            " --steps, are better"
        )
    right = before.original_accuracy
    if right is not None and right < min(0.5, 3 / run.classes):
        run.warn(
            f"the original is right on only {right:.1%} of the labels: are the classes numbered as the model"
            " numbers them?"
        )


def _warn_late(run: Run, before: Measured, after: Measured) -> None:
    worse = after.relative_error > before.relative_error
    if run.labelled and before.accuracy is not None and after.accuracy is not None:
        worse = after.accuracy < before.accuracy
    if worse or not math.isfinite(after.relative_error):
        run.warn("the model is worse than before on the inputs it was measured on: try a smaller --lr")
    if run.samples.skipped:
        run.warn(
            f"{len(run.samples.skipped)} image(s) could not be read, others stood in for them: "
            + "; ".join(run.samples.skipped[:5])
        )


def _identity(run: Run, samples: Samples, words: dict[str, str]) -> dict[str, Any]:
    settings = asdict(run.options)
    del settings["checkpoint_every"]
    resolved = {
        "precision": run.precision,
        "labels": run.labelled,
        "distill_weight": run.weight,
        "augment": run.augment,
    }
    return words | {"data": samples.digest} | settings | resolved


def tuning_row(tuned: Tuned, options: Options) -> TuningRow:
    """Build the report's row for a run."""
    return TuningRow(
        labels=tuned.labelled,
        distill_weight=tuned.distill_weight,
        steps=options.steps,
        batch=tuned.batch,
        lr=options.lr,
        weight_decay=options.weight_decay,
        norm=options.norm,
        augment=tuned.augment,
        precision=tuned.precision,
        seed=options.seed,
        images=tuned.images,
        measured_on=tuned.measured_on,
        held_out=tuned.held_out,
        before=_output(tuned.before),
        after=_output(tuned.after),
        accuracy_original=tuned.before.original_accuracy,
        accuracy_before=tuned.before.accuracy,
        accuracy_after=tuned.after.accuracy,
        processes=tuned.processes,
        device=tuned.device,
        seconds=tuned.seconds,
        resumed_at=tuned.resumed_at,
    )


def _output(measured: Measured) -> OutputError:
    return OutputError(measured.relative_error, measured.agreement)

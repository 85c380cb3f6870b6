"""The training loop, on Accelerate: one CPU, one GPU, or as many processes as were launched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octify.calibrate.augment import augmented
from octify.errors import OctifyError
from octify.tune import checkpoint
from octify.tune.examples import Examples
from octify.tune.loss import check_labels, objective
from octify.tune.measure import answers, figures
from octify.tune.order import Order, of_step, split
from octify.tune.places import has_checkpoint
from octify.tune.settings import Settings

_CLIP = 5.0
_MEASURED_TOGETHER = 64
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Tuned:
    """A finished run: held-out figures before and after, and the settings they came of."""

    settings: Settings
    before: dict[str, Any]
    after: dict[str, Any]
    examples: int
    labelled: bool
    seconds: float
    processes: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def tune(
    student: nn.Module,
    teacher: nn.Module,
    examples: Examples,
    settings: Settings,
    *,
    store: Path | None = None,
    every: int = 100,
    resume: bool = False,
    about: str = "",
    accelerator: Accelerator | None = None,
    tell: Tell = lambda phase: None,
) -> Tuned:
    """Train ``student`` in place towards ``teacher`` and the labels.

    Parameters
    ----------
    store:
        Folder for checkpoints, written ``every`` so many steps; None keeps none.
    resume:
        Go on from the checkpoint there. A run that was stopped and resumed equals one that was not.
    about:
        Goes into the checkpoint's key, with the settings.

    Raises OctifyError for labels that do not fit, a checkpoint of another run, or a loss that is not finite.
    """
    settings.check()
    own = accelerator or Accelerator(mixed_precision=settings.precision)
    run = _Run(student, teacher, examples, settings, own, tell)
    key = settings.key(about=about, examples=examples.count, labelled=examples.labels is not None)
    begin = run.begin(store, key, resume)
    started = time.perf_counter()

    def seconds() -> float:
        return begin.seconds + time.perf_counter() - started

    for step in range(begin.step, settings.steps):
        loss = run.step(step)
        if step % max(1, settings.steps // 100) == 0:
            left = (time.perf_counter() - started) / (step + 1 - begin.step) * (settings.steps - step - 1)
            tell(f"tuning: step {step + 1} of {settings.steps}, loss {loss:.4g}, about {left:.0f} s left")
        done = step + 1
        if store is not None and done % every == 0 and done < settings.steps:
            run.save(store, key, done, seconds(), begin.before)
    return Tuned(
        settings,
        dict(begin.before),
        run.measured(),
        len(run.train),
        examples.labels is not None,
        seconds(),
        own.num_processes,
        str(own.device),
    )


class _Run:
    """The pieces of one run in one process."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        examples: Examples,
        settings: Settings,
        accelerator: Accelerator,
        tell: Tell,
    ) -> None:
        self.examples, self.settings, self.accelerator, self.tell = examples, settings, accelerator, tell
        if settings.batch % accelerator.num_processes:
            raise OctifyError(
                f"a batch of {settings.batch} cannot be shared by {accelerator.num_processes} processes",
                hint=f"--batch {accelerator.num_processes * -(-settings.batch // accelerator.num_processes)}",
            )
        self.train, self.aside = split(examples.count, settings.held_out, settings.seed)
        self.order = Order(self.train, settings.batch, settings.seed)
        self.device = accelerator.device
        self.student, self.teacher = student.to(self.device), teacher.to(self.device).eval()
        self.teacher.requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [p for p in student.parameters() if p.requires_grad], settings.rate, weight_decay=settings.decay
        )
        self.raw = optimizer
        self.model, self.optimizer = accelerator.prepare(self.student, optimizer)
        self.wanted = answers(self.teacher, examples, self.aside, _MEASURED_TOGETHER, self.device)
        check_labels(examples.labels, self.wanted)

    def begin(self, store: Path | None, key: str, resume: bool) -> checkpoint.Progress:
        """Where to go on: at the checkpoint, or at step 0."""
        if store is None or not resume or not has_checkpoint(store):
            return checkpoint.Progress(key, 0, 0.0, self.measured())
        progress = checkpoint.read(store, key, self.student, self.raw)
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and progress.scaler is not None:
            scaler.load_state_dict(dict(progress.scaler))
        return progress

    def save(self, store: Path, key: str, step: int, seconds: float, before: Any) -> None:
        """Write a checkpoint, in the main process."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            scaler = getattr(self.accelerator, "scaler", None)
            state = None if scaler is None else dict(scaler.state_dict())
            progress = checkpoint.Progress(key, step, seconds, before, state)
            checkpoint.write(store, progress, self.student, self.raw)

    def measured(self) -> dict[str, Any]:
        """Held-out figures of the student as it is now."""
        self.tell("measuring on held-out examples")
        given = answers(self.student, self.examples, self.aside, _MEASURED_TOGETHER, self.device)
        return figures(self.wanted, given, self.examples.answers(self.aside))

    def step(self, step: int) -> float:
        """One optimizer step on this process's part of the batch; the loss of that part."""
        settings, accelerator = self.settings, self.accelerator
        indices = self.order.batch(step)
        generator = of_step(settings.seed, step)
        whole: tuple[Tensor, ...] = self.examples.batch(indices)
        if settings.augment:  # of the whole batch, so that it is the same for any number of processes
            whole = tuple(augmented(whole, generator))
        part = slice(accelerator.process_index, None, accelerator.num_processes)
        inputs = tuple(x[part].to(self.device) for x in whole)
        labels = self.examples.answers(indices[part])
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
        for group in self.raw.param_groups:
            group["lr"] = settings.rate * settings.rate_at(step)
        with torch.no_grad(), accelerator.autocast():
            wanted = self.teacher(*inputs) if settings.distill > 0 else None
        with _training(self.student, settings.norms), accelerator.autocast():
            outputs = self.model(*inputs)
        answer = None if labels is None else labels.to(self.device)
        processes = accelerator.num_processes
        loss = objective(outputs, wanted, answer, settings.distill, self._summed, processes)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise OctifyError(
                f"the loss is {value} at step {step + 1}",
                why="the learning rate is too large, or the precision too small",
                hint="a smaller --lr, or --precision no",
            )
        self.optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        return value

    def _summed(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all processes."""
        summed: Tensor = self.accelerator.reduce(x, "sum")
        return summed


@contextmanager
def _training(model: nn.Module, norms: str) -> Iterator[None]:
    """Training mode for the duration; BatchNorm statistics stay as they are unless ``norms`` is "train"."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    if norms == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm) or hasattr(module, "running_var"):
                module.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

"""Parts of a run on the devices of Accelerate: one training step, and one measurement."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from octify.calibrate.fit.renorm import reestimate
from octify.compare.loss import label_loss, output_loss
from octify.compare.outputs import tensors_of
from octify.errors import OctifyError
from octify.trace.batchnorm import is_batch_norm
from octify.tune.augment import Augment, augmented
from octify.tune.data import Batch, Samples, seed_all
from octify.tune.labels import use_labels
from octify.tune.measure import Measured, measure
from octify.tune.options import Options
from octify.tune.order import HELD_OUT_MOST, derived, picked, share_of, split
from octify.tune.parse import require_range

CLIP = 5.0  # largest norm of the gradient
_REESTIMATED_ON = 512  # inputs


class Run:
    """Student, teacher, optimizer and data of one process among ``processes``."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        samples: Samples,
        options: Options,
        tell: Callable[[str], None],
    ) -> None:
        self.options = options
        self.samples = samples
        self.warnings: list[str] = []
        self._tell = tell
        self.accelerator = _accelerator(options)
        self.processes: int = self.accelerator.num_processes
        self.precision = str(self.accelerator.mixed_precision)
        self.rows = split(samples.count, options.held_out, options.seed)
        self.measured = self.rows.held_out or self.rows.train[:HELD_OUT_MOST]
        self.batch_size = min(options.batch, len(self.rows.train))
        self._require_enough()
        self.warn(*samples.warnings)
        device = self.accelerator.device
        self.teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        self.student = student.to(device)
        self._train_mode()
        self._choose_labels()
        self.optimizer = _optimizer(student, options)
        self.model, self._optimizer = self.accelerator.prepare(self.student, self.optimizer)

    def warn(self, *messages: str) -> None:
        """Emit a warning, and keep it for the report."""
        for message in messages:
            self.warnings.append(message)
            self._tell(message)

    def step(self, step: int) -> float:
        """Take one training step; return the loss of the joint batch before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(step)
        loss = self.backward(step)
        self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def backward(self, step: int) -> float:
        """Set every parameter's gradient to that of the joint batch; return its loss."""
        batch = self._batch(step)
        seed_all(derived(self.options.seed, "layers", step, self.accelerator.process_index))
        with self.accelerator.autocast():
            outputs = _widened(tensors_of(self.model(*batch.inputs)))
        share = self._loss(batch, outputs)
        # The gradients of the processes are averaged, but the loss is the sum of their shares; and
        # Accelerate divides by the steps it believes to accumulate.
        self.accelerator.backward(share * self.processes * self.accelerator.gradient_accumulation_steps)
        return float(self.total(share.detach()))

    def _loss(self, batch: Batch, outputs: Sequence[Tensor]) -> Tensor:
        shares = []
        if self.weight > 0:
            with torch.no_grad(), self.accelerator.autocast():
                targets = _widened(tensors_of(self.teacher(*batch.inputs)))
            shares.append(self.weight * output_loss(outputs, targets, self.total))
        if self.weight < 1 and batch.labels is not None:
            shares.append((1 - self.weight) * label_loss(outputs[0], batch.labels, self.total))
        return torch.stack(shares).sum()

    def measure(self) -> Measured:
        """Measure student against teacher on the held-out inputs or, without any, on the training inputs."""
        mine = self.measured[share_of(len(self.measured), self.accelerator.process_index, self.processes)]
        size = max(1, self.options.batch // self.processes)
        self.student.eval()
        batches = (self._read(mine[i : i + size], "measure") for i in range(0, len(mine), size))
        result = measure(self.student, self.teacher, batches, self.total, self.accelerator.autocast)
        self._train_mode()
        return result

    def reestimate(self) -> None:
        """Re-estimate BatchNorm statistics on the training data, identically on every process."""
        numbers = picked(self.rows.train, min(_REESTIMATED_ON, len(self.rows.train)), 0, self.options.seed)
        chunks = [
            self._read(numbers[i : i + self.batch_size], "norm").inputs
            for i in range(0, len(numbers), self.batch_size)
        ]
        reestimate(self.student, chunks)
        self._train_mode()

    def total(self, value: Tensor) -> Tensor:
        """Sum ``value`` over all processes."""
        return value if self.processes == 1 else self.accelerator.reduce(value, "sum")

    def agreed(self, noted: Sequence[int]) -> int:
        """Signal that some process has received, if any; the same on all processes."""
        if self.processes == 1:
            return noted[0] if noted else 0
        counts = [sum(n == code for n in noted) for code in (signal.SIGTERM, signal.SIGINT)]
        terminated, interrupted = self.total(torch.tensor(counts, device=self.accelerator.device)).tolist()
        return signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0

    def unwrap(self) -> None:
        """Remove Accelerate's wrappers from the student and move it to the CPU."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.student.cpu().eval()

    def _batch(self, step: int) -> Batch:
        numbers = picked(self.rows.train, self.batch_size, step, self.options.seed)
        part = share_of(self.batch_size, self.accelerator.process_index, self.processes)
        seeds = [derived(self.options.seed, "item", step, i) for i in range(self.batch_size)]
        batch = self._checked(self.samples.read(numbers[part], seeds[part]))
        seed = derived(self.options.seed, "augment", step)
        return self._placed(augmented(batch, self.augment, seed, part, self.batch_size))

    def _read(self, numbers: Sequence[int], why: str) -> Batch:
        seeds = [derived(self.options.seed, why, number) for number in numbers]
        return self._placed(self._checked(self.samples.read(numbers, seeds)))

    def _checked(self, batch: Batch) -> Batch:
        if not self.labelled:
            return replace(batch, labels=None)
        assert batch.labels is not None
        require_range(batch.labels, self.classes)
        return batch

    def _placed(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        labels = None if batch.labels is None else batch.labels.to(device)
        return Batch(tuple(x.to(device) for x in batch.inputs), labels)

    def _train_mode(self) -> None:
        """Set eval mode, without dropout: the loss is that of the deployed function."""
        self.student.eval()
        if self.options.norm == "batch":
            for module in self.student.modules():
                if is_batch_norm(module):
                    module.train()

    def _choose_labels(self) -> None:
        first = self.samples.read(self.rows.train[:1], [0])
        with torch.no_grad(), self.accelerator.autocast():
            outputs = tensors_of(self.teacher(*self._placed(first).inputs))
        self.labelled, refusal = use_labels(self.samples, first.labels, outputs, self.options.labels)
        if refusal:
            self.warn(refusal)
        self.classes = outputs[0].shape[1] if self.labelled else 0
        if self.labelled and self.samples.labels is not None:
            require_range(self.samples.labels, self.classes)
        weight = self.options.distill_weight
        if weight is not None and weight < 1 and not self.labelled:
            raise OctifyError(
                f"--distill-weight {weight:g} needs labels",
                why=refusal or "the data has none",
                hint="leave it out",
            )
        self.weight = (0.5 if weight is None else weight) if self.labelled else 1.0
        self.augment: Augment = "flip" if self.weight == 1 else "shift"
        if self.options.augment != "auto":
            self.augment = self.options.augment
        elif self.samples.own_transforms:
            self.augment = "none"

    def _require_enough(self) -> None:
        fewest = min(self.batch_size, len(self.measured))
        if fewest < self.processes:
            raise OctifyError(
                f"there are {self.processes} processes, and {fewest} inputs for them",
                why=f"a step has {self.batch_size} inputs, a measurement {len(self.measured)}",
                hint="a larger --batch and --eval, or fewer processes",
            )


def _accelerator(options: Options) -> Accelerator:
    AcceleratorState._reset_state()  # a second run of one process may have another precision
    try:
        accelerator = Accelerator(
            mixed_precision=options.precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(static_graph=True, broadcast_buffers=options.norm == "batch")
            ],
        )
    except ValueError as error:
        raise _no_precision(str(options.precision), str(error)) from error
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise OctifyError(
            f"tune does not run under Accelerate's {kind}",
            why="the model is held whole by every process",
            hint="accelerate launch --multi_gpu, or --cpu",
        )
    precision = str(accelerator.mixed_precision)
    if precision not in ("no", "bf16", "fp16"):
        raise _no_precision(precision, "it is not one that octify trains in")
    if precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate accepts it, but computes in float32.
        raise _no_precision(precision, "a CPU has no fp16 training")
    return accelerator


def _no_precision(precision: str, why: str) -> OctifyError:
    return OctifyError(
        f"--precision {precision} cannot be had here", why=why, hint="--precision bf16, or --precision no"
    )


def _optimizer(student: nn.Module, options: Options) -> torch.optim.Optimizer:
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise OctifyError("the model has no parameter that is trained", why="all have requires_grad=False")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=options.lr)


def _widened(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Cast half precision outputs to float32, in which the loss is summed."""
    return [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in outputs]

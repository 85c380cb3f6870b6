"""Sequential reconstruction: one convolution after another, each fitted to the original's values.

For each site the inputs are those of the converted model, whose earlier convolutions are already
repaired, and the targets the original's (``octify.calibrate.fit.system``). Pooling before the activation
would give too low a mean (Jensen), and that shift, accumulated, is the main reason naive conversion
fails. What the converted model adds behind the convolution (a skip connection with its own error)
is subtracted, so the branch repairs it.

Memory, whatever the number of images: what the ``Stream``s hold, and one system at a time, of at
most ``ROWS`` rows and 600 MB (``rows_wanted``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from octify.calibrate.fit.caution import cautious_ridge
from octify.calibrate.fit.linear_form import Block, blocks
from octify.calibrate.fit.order import repair_order
from octify.calibrate.fit.rows import rows_wanted
from octify.calibrate.fit.sites import Site, sites
from octify.calibrate.fit.solve import REFITS, Fit, solve
from octify.calibrate.fit.system import Sampler, System
from octify.calibrate.fit.write import Unfolded, initial, unfolded, write_branch
from octify.calibrate.inputs.images import count_of
from octify.calibrate.streams.chunks import Chunk
from octify.calibrate.streams.execution import Stream, for_reading, out_of_place
from octify.calibrate.streams.sizes import DOUBLE, PER_NUMBER, batch_of
from octify.calibrate.streams.store import Store
from octify.passes.rewrite import Rewritten
from octify.progress import Progress, Steps
from octify.report.calibration import BranchError
from octify.trace import Traced

_PER_VALUE = 250  # for one value of a map, which both models and both branches read


ROWS = 30_000


@dataclass(frozen=True)
class Repaired:
    """Result of sequential reconstruction; the weights are in the model already.

    ``fits`` holds, for whitened distillation, the Gram matrix of each block of each fitted branch.
    """

    layers: tuple[BranchError, ...]
    left: dict[str, str]
    sites: tuple[Site, ...] = field(repr=False, default=())
    fits: dict[tuple[str, str], list[tuple[Block, Fit]]] = field(repr=False, default_factory=dict)


def repair(
    traced: Traced,
    rewritten: Rewritten,
    chunks: Sequence[Chunk],
    *,
    copies: int = 0,
    refits: int = REFITS,
    rows: int = ROWS,
    seed: int = 0,
    keep_fits: bool = False,
    prefix: Stream | None = None,
    progress: Progress = lambda path, done, of: None,
) -> Repaired:
    """Fit every convolution of ``rewritten`` in place, in eval mode.

    ``traced``: the original, in modules of its own that ``rewritten`` does not share.
    ``copies``: how many of the images are altered copies of others (``augment``).
    ``prefix``: a stream over ``chunks`` that keeps values of the original.
    """
    order = repair_order(traced)
    todo, left = sites(traced, rewritten, order)
    student_module, teacher_module = rewritten.module.eval(), traced.module
    layers: list[BranchError] = []
    fits: dict[tuple[str, str], list[tuple[Block, Fit]]] = {}
    with out_of_place(student_module), for_reading(teacher_module), contextlib.ExitStack() as ends:
        store = ends.enter_context(Store()) if prefix is None else prefix.store
        teacher = Stream(traced.module.graph, teacher_module, chunks, store, prefix, only_kept=True)
        student = Stream(student_module.graph, student_module, chunks, store, teacher)
        ends.callback(teacher.close)
        ends.callback(student.close)
        for site in todo:
            _hold(site, teacher, student)
        images = count_of(chunks)
        work = [of_fit(traced, site, images, rows, refits) for site in todo]
        steps = Steps(progress, sum(work))
        for done, site in enumerate(todo):
            steps(site.path, work[done])
            generator = torch.Generator().manual_seed(seed * 100_003 + done)
            for branch in ("high", "low"):
                sampler = Sampler(site, teacher, student, rows, generator, images - copies)
                outcome = _fit_branch(site, branch, sampler, refits)
                if isinstance(outcome, str):
                    left.setdefault(site.path, outcome)
                elif outcome is not None:
                    layers.append(outcome[0])
                    if keep_fits:
                        fits[site.path, branch] = outcome[1]
            _release(site, teacher, student)
    return Repaired(tuple(layers), left, tuple(todo), fits)


def _held(site: Site) -> tuple[list[fx.Node], list[fx.Node]]:
    """The nodes whose values a site needs, of the original's graph and of the converted one."""
    original, converted = [], []
    for use in site.uses:
        original += [use.following.end] if use.repaired else [use.following.end, use.source]
        for skip in use.following.skips:
            converted += [n for n in (skip.value.high, skip.value.low) if n is not None]
        if use.repaired:
            converted += [n for n in use.call.args if isinstance(n, fx.Node)]
    return original, converted


def _hold(site: Site, teacher: Stream, student: Stream) -> None:
    for stream, nodes in zip((teacher, student), _held(site), strict=True):
        for node in nodes:
            stream.hold(node)


def _release(site: Site, teacher: Stream, student: Stream) -> None:
    for stream, nodes in zip((teacher, student), _held(site), strict=True):
        for node in nodes:
            stream.release(node)


def _fit_branch(
    site: Site, branch: str, sampler: Sampler, refits: int
) -> tuple[BranchError, list[tuple[Block, Fit]]] | str | None:
    """Fit and write one branch; a reason where that cannot be, None where there is nothing to fit."""
    parts = blocks(site.conv, branch)
    if not parts:
        return None
    samples = sampler.samples(branch, parts)
    fits: list[tuple[Block, Fit]] = []
    errors = _Errors()
    written: list[Unfolded] = []
    for block in parts:
        system = sampler.system(samples, branch, block)
        if not (_is_finite(system.x) and _is_finite(system.target)):
            return "its values are not finite"
        start = initial(site, branch, block).to(system.x)
        lacking = system.lacking(start)
        ridge, gram = cautious_ridge(system.x, system.target, system.skip, start, system.source, lacking)
        if ridge is None:
            return "on images kept aside no fit was better than its weights"
        fit = solve(
            system.x, system.target, system.skip, start, system.activation, refits, ridge, gram, lacking
        )
        if not bool(torch.isfinite(fit.weights).all()):
            return "its fit is not finite"
        errors.add(system, lacking, fit, block)
        written.append(unfolded(site, branch, block, fit, system.x))
        fits.append((block, replace(fit, predicted=None)))
    write_branch(site, branch, written)
    return errors.of(site.path, branch), fits


def _is_finite(x: Tensor) -> bool:
    """Return whether all values are finite; in one pass, without a mask."""
    return bool(torch.stack(x.aminmax()).isfinite().all()) if x.numel() else True


class _Errors:
    """Adds up the errors of a branch's blocks."""

    def __init__(self) -> None:
        self.before = self.after = self.spread = 0.0

    def add(self, system: System, lacking: Tensor, fit: Fit, block: Block) -> None:
        outputs = block.groups * block.outputs
        before, spread = system.error(system.target - lacking)
        assert fit.predicted is not None
        predicted = fit.predicted if system.skip is None else fit.predicted + system.skip
        self.before += outputs * before
        self.after += outputs * system.error(predicted)[0]
        self.spread += outputs * spread

    def of(self, path: str, branch: str) -> BranchError:
        spread = max(self.spread, 1e-20)
        return BranchError(path, branch, (self.before / spread) ** 0.5, (self.after / spread) ** 0.5)


def of_fit(traced: Traced, site: Site, images: int, most_rows: int, refits: int) -> int:
    """Work of fitting both branches of a convolution, and of running both models up to it."""
    conv = site.conv
    weights, groups = sum(p.numel() for p in conv.parameters() if p.ndim > 1), int(conv.groups)
    values = total = 0
    for node in (use.node for use in site.uses):
        values += images * math.prod(traced.shape(node) or (1,)) // batch_of(traced)
        total += 2 * images * traced.facts[node.name].macs // batch_of(traced)
    total += _PER_VALUE * values
    outputs = int(conv.out_channels)
    unknowns = max(1, weights // outputs)
    for positions in (values // outputs, values // outputs // 4):
        rows = min(rows_wanted(unknowns, groups, most_rows), positions)
        products = unknowns // 2 + 2 * (refits + 2) * outputs // groups
        total += groups * (rows * unknowns * (products + PER_NUMBER) + DOUBLE * unknowns**3 // 3)
    return total

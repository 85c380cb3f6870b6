"""Sequential reconstruction: one convolution after another, each fitted to the original's values.

For each site the inputs are those of the converted model, whose earlier convolutions are already
repaired, and the targets those of ``octify.calibrate.targets``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from octify.calibrate.affine import scale_and_shift, unscaling, write_norm
from octify.calibrate.execution import Stream, out_of_place
from octify.calibrate.order import repair_order
from octify.calibrate.rows import features, rows_as_weight, rows_wanted, sample, weight_as_rows
from octify.calibrate.sites import Site, sites
from octify.calibrate.solve import REFITS, Fit, solve, with_bias
from octify.calibrate.targets import converted_skips, original_sum, target
from octify.kernels import PathName
from octify.nn import OctaveConv
from octify.nn.functional import output_sizes
from octify.rewrite import Rewritten
from octify.trace import Traced

Chunk = tuple[Tensor, ...]
ROWS = 30_000


@dataclass(frozen=True)
class LayerError:
    """Relative root mean square error of a convolution's output (behind BatchNorm and skips), per branch.

    ``before`` is that of the closed-form weights on the same, repaired, inputs.
    """

    path: str
    branch: str
    before: float
    after: float


@dataclass(frozen=True)
class Repaired:
    """What sequential reconstruction did; the weights are in the model already.

    ``fits`` holds, for whitened distillation, the Gram matrix of each fitted branch.
    """

    layers: tuple[LayerError, ...]
    left: dict[str, str]
    sites: tuple[Site, ...] = field(repr=False, default=())
    fits: dict[tuple[str, str], Fit] = field(repr=False, default_factory=dict)


def repair(
    traced: Traced,
    rewritten: Rewritten,
    chunks: Sequence[Chunk],
    *,
    refits: int = REFITS,
    rows: int = ROWS,
    seed: int = 0,
    keep_fits: bool = False,
    progress: Callable[[str, int, int], None] = lambda path, done, of: None,
) -> Repaired:
    """Fit every convolution of ``rewritten`` in place, in eval mode."""
    order = repair_order(traced)
    todo, left = sites(traced, rewritten, order)
    student_module = rewritten.module.eval()
    teacher_module = copy.deepcopy(traced.module).eval()
    layers: list[LayerError] = []
    fits: dict[tuple[str, str], Fit] = {}
    with out_of_place(student_module), out_of_place(teacher_module):
        teacher = Stream(traced.module.graph, teacher_module, chunks)
        student = Stream(student_module.graph, student_module, chunks)
        for site in todo:
            _hold(site, teacher, student)
        for done, site in enumerate(todo):
            progress(site.path, done, len(todo))
            generator = torch.Generator().manual_seed(seed * 100_003 + done)
            for branch in ("high", "low"):
                found = _fit_branch(site, branch, teacher, student, refits, rows, generator)
                if isinstance(found, str):
                    left.setdefault(site.path, found)
                elif found is not None:
                    layers.append(found[0])
                    if keep_fits:
                        fits[site.path, branch] = found[1]
            _release(site, teacher, student)
    return Repaired(tuple(layers), left, tuple(todo), fits)


def _nodes(site: Site) -> tuple[list[object], list[object]]:
    original = [site.node, *(skip.original for skip in site.skips)]
    converted = [n for skip in site.skips for n in (skip.value.high, skip.value.low) if n is not None]
    return list(original), list(converted)


def _hold(site: Site, teacher: Stream, student: Stream) -> None:
    original, converted = _nodes(site)
    for node in original:
        teacher.hold(node)  # type: ignore[arg-type]
    for node in converted:
        student.hold(node)  # type: ignore[arg-type]


def _release(site: Site, teacher: Stream, student: Stream) -> None:
    original, converted = _nodes(site)
    for node in original:
        teacher.release(node)  # type: ignore[arg-type]
    for node in converted:
        student.release(node)  # type: ignore[arg-type]


def branch_paths(conv: OctaveConv, branch: str) -> list[tuple[PathName, nn.Module]]:
    """The paths into a branch, the one at the same resolution (which carries the bias) first."""
    names: tuple[PathName, ...] = (
        ("high_to_high", "low_to_high") if branch == "high" else ("low_to_low", "high_to_low")
    )
    return [(name, path) for name in names if (path := getattr(conv, name)) is not None]


def _fit_branch(
    site: Site,
    branch: str,
    teacher: Stream,
    student: Stream,
    refits: int,
    most: int,
    generator: torch.Generator,
) -> tuple[LayerError, Fit] | str | None:
    paths = branch_paths(site.conv, branch)
    if not paths:
        return None
    groups = {int(path.groups) for _, path in paths}  # type: ignore[arg-type]
    if len(groups) > 1:
        return "its paths have different groups"
    system = _system(site, branch, paths, groups.pop(), teacher, student, most, generator)
    initial = _initial(site, branch, paths)
    fitted = solve(system.x, system.target, system.skip, initial, site.activation, refits)
    error = LayerError(site.path, branch, system.error(initial, site), system.error(fitted.weights, site))
    if not bool(torch.isfinite(fitted.weights).all()):
        return "its values are not finite"
    write_branch(site, branch, fitted.weights, system.x)
    return error, fitted


@dataclass(frozen=True)
class _System:
    x: Tensor
    target: Tensor
    skip: Tensor | None

    def error(self, weights: Tensor, site: Site) -> float:
        predicted = self.x @ weights + (0.0 if self.skip is None else self.skip)
        target = self.target
        if site.activation is not None:
            predicted, target = site.activation.apply(predicted), site.activation.apply(target)
        spread = (target - target.mean(1, keepdim=True)).square().mean()
        return float(((predicted - target).square().mean() / spread.clamp_min(1e-20)).sqrt())


def _system(
    site: Site,
    branch: str,
    paths: Sequence[tuple[PathName, nn.Module]],
    groups: int,
    teacher: Stream,
    student: Stream,
    most: int,
    generator: torch.Generator,
) -> _System:
    source = {"high": site.call.args[0], "low": site.call.args[1] if len(site.call.args) > 1 else None}
    values = {k: None if n is None else student.values(n) for k, n in source.items()}  # type: ignore[arg-type]
    produced = teacher.values(site.node)
    channels = site.high_out if branch == "high" else site.low_out
    images = sum(len(chunk[0]) for chunk in student.chunks)
    unknowns = (
        sum(weight_as_rows(path, site.conv.recipes[name].transposed).shape[1] for name, path in paths) + 1
    )
    per_image = max(1, -(-rows_wanted(unknowns, groups, most) // images))
    xs, targets, skips = [], [], []
    for i in range(len(student.chunks)):
        branches = {k: None if v is None else v[i] for k, v in values.items()}
        size, high_need, low_need = output_sizes(branches["high"], branches["low"], site.conv.axes)
        need = high_need if branch == "high" else low_need
        where = sample(len(produced[i]), need, per_image, generator, produced[i].device)
        parts = [
            features(site.conv, name, branches[name.split("_")[0]], size, need, where)  # type: ignore[arg-type]
            for name, _ in paths
        ]
        xs.append(with_bias(torch.cat(parts, dim=2)))
        whole = original_sum(site, teacher, i, channels)
        targets.append(_grouped(target(whole, branch, site, where), groups))
        skip = converted_skips(site, branch, student, i, where)
        if skip is not None:
            skips.append(_grouped(skip, groups))
    return _System(torch.cat(xs, 1), torch.cat(targets, 1), torch.cat(skips, 1) if skips else None)


def _grouped(rows: Tensor, groups: int) -> Tensor:
    return rows.reshape(len(rows), groups, -1).movedim(1, 0)


def branch_norm(site: Site, branch: str) -> nn.Module | None:
    """The converted BatchNorm behind a branch."""
    return site.norm_high if branch == "high" else site.norm_low


def _initial(site: Site, branch: str, paths: Sequence[tuple[PathName, nn.Module]]) -> Tensor:
    """The present weights, with BatchNorm folded in and the bias as the last row: (groups, D + 1, O)."""
    rows = [weight_as_rows(path, site.conv.recipes[name].transposed) for name, path in paths]
    weights = torch.cat(rows, dim=1)
    groups, _, each = weights.shape
    scale, shift = scale_and_shift(branch_norm(site, branch), groups * each, weights)
    bias = weights.new_zeros(groups * each)
    for _, path in paths:
        if path.bias is not None:
            bias = bias + path.bias.detach()  # type: ignore[operator]
    folded = weights * scale.reshape(groups, 1, each)
    return torch.cat([folded, (bias * scale + shift).reshape(groups, 1, each)], dim=1)


@torch.no_grad()
def write_branch(site: Site, branch: str, weights: Tensor, x: Tensor) -> None:
    """Put fitted weights (groups, D + 1, O) into the convolution's paths and its BatchNorm."""
    groups, _, each = weights.shape
    norm = branch_norm(site, branch)
    factor = unscaling(norm, groups * each, weights)
    plain = weights[:, :-1] * factor.reshape(groups, 1, each)
    bias = weights[:, -1].reshape(-1)
    start = 0
    paths = branch_paths(site.conv, branch)
    for name, path in paths:
        own = path.get_parameter("weight")
        transposed = site.conv.recipes[name].transposed
        count = weight_as_rows(path, transposed).shape[1]
        own.copy_(rows_as_weight(plain[:, start : start + count], own, transposed))
        start += count
        if path.bias is not None:
            path.bias.zero_()  # type: ignore[operator]
    if norm is not None:
        y = x[:, :, :-1] @ plain
        mean, variance = y.mean(1).reshape(-1), y.var(1, correction=0).reshape(-1)
        write_norm(norm, factor, mean, variance, bias)
    else:
        _set_bias(paths, bias)


def _set_bias(paths: Sequence[tuple[PathName, nn.Module]], bias: Tensor) -> None:
    holder = next((path for _, path in paths if isinstance(path.bias, Tensor)), None)
    if holder is None:
        holder = paths[0][1]
        weight = holder.get_parameter("weight")
        holder.bias = nn.Parameter(torch.zeros_like(bias), requires_grad=weight.requires_grad)
    holder.get_parameter("bias").copy_(bias)

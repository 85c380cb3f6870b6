"""One model through octify: what was converted, and how far the answers are from what they must be.

Runs in a process of its own (``tests.zoo.runner``). Figures of the plan are taken at the model's own input
size on weights without data; answers are compared at a size where all octave maps are even, if the model
takes one: there the conversion equals the projected reference to rounding error.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import octify
from octify.compare.oracles import enlivened
from octify.errors import OctifyError
from octify.passes.reference import reference
from octify.passes.resolve import resolve
from octify.passes.rewrite import Rewritten, rewrite
from octify.plan import Plan
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.report import Report
from octify.report.build import build_report
from octify.trace import Traced, trace
from octify.trace.parts import assemble, measure_nodes
from tests.models.zoo import settle
from tests.zoo.catalogue import Measured, brief, build, measure, without_data

EXACT = 1e-9  # in float64, relative to the output's scale: rounding is 1e-13, a wrong coefficient 1e-3
ODD_SHARE = 0.5  # at odd sizes: length of the error over that of what the projection changes
NOISE_FACTOR = 8.0  # in float32: two computations against the noise of one
CHECKED_SIDES = (64, 128, 192, 256, 96, 160, 224, 320)
EVEN_SEARCH_SECONDS = 12.0
REASONS = 5
CONVOLUTIONS = ("dense", "grouped", "depthwise", "transposed", "conv1d", "conv2d", "conv3d")

RESIZED = 320  # side of the images that a model which resizes them itself is compared at


@dataclass(frozen=True)
class Options:
    """What is asked of every model; part of the key under which a result is kept."""

    alpha: float = 0.5
    rules: str = "everywhere"
    static: bool = False
    onnx: bool = False
    check_size: int = 0  # side of the input for the comparisons; 0 looks for one
    force: bool = False  # also models that are not mainly convolutions


@dataclass
class Row:
    """The result of one model. Shares and ratios are of MACs; seconds are of CPU time."""

    name: str
    family: str = ""
    status: str = ""
    detail: str = ""
    parameters: int = 0
    inputs: str = ""
    macs: int = 0
    conv_macs: int = 0
    traced: str = ""  # "whole", "with opaque leaves", "in 3 parts"; ", for one size" of the input
    opaque: int = 0
    opaque_names: list[str] = field(default_factory=list)
    both: float = 0.0  # share of conv MACs that are octave on both sides, one side, none
    one: float = 0.0
    none: float = 0.0
    conv_ratio: float = 1.0  # conv MACs after / before, paper kernels
    total_ratio: float = 1.0
    splits: int = 0
    merges: int = 0
    reasons: list[dict[str, Any]] = field(default_factory=list)
    merge_reasons: dict[str, int] = field(default_factory=dict)
    check_inputs: str = ""
    even: bool = True
    dtype: str = ""
    alpha0: float | None = None  # largest difference of alpha 0 from the original
    exact: float | None = None  # exact kernels from the reference, relative to the output's scale
    noise: float | None = None  # the same for the reference and its rounding errors
    change: float | None = None  # the reference from the original: what the projection does
    onnx: float | None = None  # onnxruntime from PyTorch, relative
    seconds: dict[str, float] = field(default_factory=dict)
    peak_gib: float = 0.0


class Stopped(Exception):  # noqa: N818 - not always an error
    """The model ends here, with this status."""

    def __init__(self, status: str, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail


def check(name: str, family: str, options: Options, known: Measured | None = None) -> Row:
    """Everything that ``options`` ask of the model ``name``. Never raises."""
    row = Row(name, family)
    try:
        _figures(row, options, known)
        if not options.static:
            _compare(row, options)
        row.status = row.status or "ok"
    except Stopped as stop:
        row.status, row.detail = stop.status, stop.detail
    except OctifyError as error:
        row.status, row.detail = "refused", brief(error)
    except MemoryError as error:
        row.status, row.detail = "memory", brief(error)
    except Exception as error:
        out_of_memory = "allocate memory" in str(error)
        row.status = "memory" if out_of_memory else "error"
        row.detail = brief(error) + ("" if out_of_memory else f" ({_octify_line(error)})")
    return row


def _octify_line(error: BaseException) -> str:
    """``file:line`` of the innermost frame inside octify, else of the innermost one."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/octify/" in frame.filename] or list(frames)
    return f"{'/'.join(Path(ours[-1].filename).parts[-3:])}:{ours[-1].lineno}"


@contextmanager
def _timed(row: Row, name: str) -> Iterator[None]:
    start = time.process_time()
    try:
        yield
    finally:
        row.seconds[name] = round(row.seconds.get(name, 0.0) + time.process_time() - start, 3)


# -- figures at the model's own size ------------------------------------------------------------------


def _figures(row: Row, options: Options, known: Measured | None) -> None:
    """Trace, plan and rewrite with the paper's kernels; no data is computed."""
    with _timed(row, "census"):
        known = known or measure(row.name)
    row.parameters, row.inputs = known.parameters, known.inputs
    row.macs, row.conv_macs = known.macs, known.conv_macs
    if not known.conv_macs and known.problem:
        raise Stopped("cannot be run", known.problem)
    if not known.mainly_cnn and not options.force:
        raise Stopped("not a CNN", f"{known.conv_share:.0%} of its MACs are in convolutions")
    try:
        converted = _planned(row, known, options, without_data(row.name))
        # Code that asks for its device may go another way without data than it goes for a user.
        again = row.traced != "whole"
    except Stopped:
        raise
    except Exception:  # a model that mixes values with shapes does not run without data
        again = True
    if again:
        row.seconds = {"census": row.seconds["census"]}
        converted = _planned(row, known, options, build(row.name))
    if not converted:
        raise Stopped("nothing converted", row.reasons[0]["reason"] if row.reasons else "")


def _planned(row: Row, known: Measured, options: Options, model: nn.Module) -> bool:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = tuple(torch.empty(1, *size, device=device) for size in known.sizes)
    traced = _traced(row, model, inputs)
    rules = load_rules(options.rules)
    with _timed(row, "planning"):
        plan = make_plan(traced, rules, options.alpha, "paper")
    with _timed(row, "rewriting"):
        rewritten = rewrite(traced, plan)
    with _timed(row, "reporting"):
        after = measure_nodes(traced, rewritten.module)
        _summarise(row, traced, rewritten, plan, build_report(traced, plan, rewritten, after))
    return any(conv.converted for conv in plan.convs)


def _traced(row: Row, model: nn.Module, inputs: Sequence[Tensor]) -> Traced:
    with _timed(row, "tracing"):
        try:
            traced = trace(model, inputs)
        except OctifyError as error:
            why = getattr(error, "why", None) or brief(error)
            where = getattr(error, "where", None)
            raise Stopped("untraceable", f"{why} ({where})" if where else str(why)) from error
    row.opaque = len(traced.opaque)
    row.opaque_names = [f"{leaf.path} ({leaf.kind}): {leaf.reason}" for leaf in traced.opaque[:20]]
    row.traced = "with opaque leaves" if traced.opaque else "whole"
    if traced.parts is not None:
        row.traced = f"in {sum(not part.alone for part in traced.parts.members)} parts"
    elif traced.fixed_sizes:
        row.traced += ", for one size"
    return traced


def _summarise(row: Row, traced: Traced, rewritten: Rewritten, plan: Plan, report: Report) -> None:
    convs = [layer for layer in report.layers if layer.kind in CONVOLUTIONS]
    total = row.conv_macs or sum(layer.macs_before for layer in convs)
    sides = [0, 0, 0]
    left = {entry.path: entry.reason for entry in report.left_dense}
    lost: dict[tuple[str, int], list[int]] = {}
    for layer in convs:
        octave = bool(layer.alpha_in) + bool(layer.alpha_out)
        sides[octave] += layer.macs_before
        if octave < 2:
            planned = plan.by_path.get(layer.path)
            reason = left.get(layer.path) or (planned.reason if planned else None) or "its input is a vector"
            if not layer.alpha_in and "input is dense" in reason:
                reason += f": {_why_dense(layer.path, traced, rewritten)}"
            if octave == 1:
                reason = f"one side ({'in' if layer.alpha_in else 'out'} octave): {reason}"
            lost.setdefault((reason, octave), []).append(layer.macs_before)
    hidden = max(total - sum(sides), 0)  # in opaque leaves
    if hidden:
        lost["inside what could not be traced", 0] = [hidden]
    row.both, row.one, row.none = (n / total for n in (sides[2], sides[1], sides[0] + hidden))
    saved = sum(layer.macs_before - layer.macs_after for layer in convs)
    row.conv_ratio = 1 - saved / total
    totals = report.totals
    row.total_ratio = totals.macs_after / totals.macs_before if totals.macs_before else 1.0
    row.splits, row.merges = totals.splits, totals.merges
    ranked = sorted(lost.items(), key=lambda item: -sum(item[1]))
    row.reasons = [
        {"reason": reason, "sides": octave, "macs": sum(macs), "share": sum(macs) / total, "convs": len(macs)}
        for (reason, octave), macs in ranked[:REASONS]
    ]
    merges = Counter(b.reason for b in report.boundaries if b.kind == "merge")
    row.merge_reasons = dict(merges.most_common(REASONS))


def _why_dense(path: str, traced: Traced, rewritten: Rewritten) -> str:
    """What stands nearest before a convolution that only knows dense values; searched against the flow."""
    refusals = rewritten.resolved.layout.refusals
    found = [n for n in traced.module.graph.nodes if path in (str(n.target), n.name)]
    seen = set(found)
    for node in found:
        for before in node.all_input_nodes:
            if before.name in refusals and "input is dense" not in refusals[before.name].reason:
                return refusals[before.name].reason
            if before not in seen:
                seen.add(before)
                found.append(before)
    return "it is the model's input"


# -- comparisons --------------------------------------------------------------------------------------


def _compare(row: Row, options: Options) -> None:
    sizes = tuple(tuple(map(int, part.split("x"))) for part in row.inputs.split())
    with _timed(row, "build"):
        torch.manual_seed(0)
        model, _ = enlivened(build(row.name, side=RESIZED))
    try:
        chosen, row.even = _checked_sizes(row, model, sizes, options)
    except Exception:  # its graph cannot be run without data
        chosen, row.even = sizes, False
    row.check_inputs = " ".join("x".join(map(str, size)) for size in chosen)
    with _timed(row, "settling"):
        _settle(row, model, chosen)
    if options.onnx:
        _compare_onnx(row, model, _inputs(chosen), options)
    wide, inputs = _widest(row, model, _inputs(chosen))
    del model
    _compare_exact(row, wide, inputs, options)


def _inputs(sizes: Sequence[Sequence[int]], batch: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, *size, generator=generator) for size in sizes)


def _checked_sizes(
    row: Row, model: nn.Module, sizes: Sequence[tuple[int, ...]], options: Options
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """Input sizes to compare at, and whether every octave map is even there: the smallest that will do."""
    with _timed(row, "looking for a size"):
        maps = _OctaveMaps(model, sizes, options)
        odd: tuple[tuple[int, ...], ...] | None = None
        for side in _sides(sizes[0][-1], options.check_size):
            tried = sizes if side == sizes[0][-1] else tuple((*size[:-2], side, side) for size in sizes)
            count = maps.odd(tried)
            if count == 0 and _takes(model, tried):
                return tuple(tried), True
            if odd is None and count and _takes(model, tried):
                odd = tuple(tried)
        return odd or tuple(sizes), False


def _sides(own: int, asked: int) -> Iterator[int]:
    """Sides of inputs to try: round ones, the model's own, and for a while every even one."""
    if asked:
        yield asked
        return
    yield from (side for side in CHECKED_SIDES if side <= max(own, 128))
    if own not in CHECKED_SIDES:
        yield own
    end = time.monotonic() + EVEN_SEARCH_SECONDS
    for side in range(98, 300, 2):
        if time.monotonic() > end:
            return
        if side not in CHECKED_SIDES:
            yield side


class _OctaveMaps:
    """The octave maps of a model at other sizes than it was traced at, without data.

    A graph for any size is run again; for one size alone, and of parts, the model is traced again.
    """

    def __init__(self, model: nn.Module, sizes: Sequence[Sequence[int]], options: Options) -> None:
        self._model, self._options = copy.deepcopy(model).to("meta"), options
        self._traced, self._octave = self._trace(sizes)
        self._again = bool(self._traced.parts or self._traced.fixed_sizes)

    def _trace(self, sizes: Sequence[Sequence[int]]) -> tuple[Traced, list[fx.Node]]:
        traced = trace(self._model, _empty(sizes))
        plan = make_plan(traced, load_rules(self._options.rules), self._options.alpha, "exact")
        resolved = resolve(traced, plan)
        return traced, [n for n in traced.module.graph.nodes if resolved.mask(n.name) is not None]

    def odd(self, sizes: Sequence[Sequence[int]]) -> int | None:
        """How many have an odd size; None if the model does not take such inputs."""
        try:
            if self._again:
                traced, octave = self._trace(sizes)
                found = [(traced.shape(node) or ())[2:] for node in octave]
            else:
                shapes = _Shapes(self._traced.module)
                with torch.no_grad():
                    shapes.run(*_empty(sizes))
                found = [shapes.sizes.get(node, ()) for node in self._octave]
        except Exception:  # whatever a model raises
            return None
        return sum(any(n % 2 and n > 1 for n in size[-2:]) for size in found)


def _odd_maps(traced: Traced, plan: Plan) -> int:
    """How many octave maps have an odd size."""
    resolved = resolve(traced, plan)
    octave = [n for n in traced.module.graph.nodes if resolved.mask(n.name) is not None]
    return sum(any(n % 2 and n > 1 for n in (traced.shape(node) or ())[2:][-2:]) for node in octave)


def _empty(sizes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    return tuple(torch.empty(2, *size, device="meta") for size in sizes)


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the spatial sizes of its values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.sizes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.sizes[n] = tuple(result.shape[2:])
        return result


def _takes(model: nn.Module, sizes: Sequence[Sequence[int]]) -> bool:
    try:
        with torch.no_grad():
            model(*_inputs(sizes, batch=1))
    except Exception:  # whatever a model raises at a size it was not made for
        return False
    return True


def _settle(row: Row, model: nn.Module, sizes: Sequence[Sequence[int]]) -> None:
    if len(sizes) > 1:
        return
    try:
        settle(model, [_inputs(sizes, batch=4, seed=2)[0], _inputs(sizes, batch=4, seed=3)[0]])
    except Exception as error:
        row.detail = f"its norms were not settled: {brief(error)}"
    model.eval()


def _widest(row: Row, model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """``model`` and ``inputs`` in float64 where the model runs in it, else as they are."""
    row.dtype = "float64"
    wide, double = copy.deepcopy(model).double(), tuple(x.double() for x in inputs)
    try:
        outputs = _answers(wide, double)
        if all(y.dtype == torch.float64 for y in outputs if y.is_floating_point()):
            return wide, double
    except Exception as error:
        try:
            _answers(model, inputs)
        except Exception:  # in no precision: its parts may be compared
            row.detail = brief(error)
            return wide, double
    row.dtype = "float32"
    return model, inputs


def _answers(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor in the model's output, in order."""
    with torch.no_grad():
        return [
            leaf
            for leaf in pytree.tree_leaves(model.eval()(*(x.clone() for x in inputs)))
            if isinstance(leaf, Tensor)
        ]


def distance(these: Sequence[Tensor], those: Sequence[Tensor]) -> float:
    """Largest difference relative to each output's largest value; infinite where shapes or NaNs differ."""
    if len(these) != len(those) or any(a.shape != b.shape for a, b in zip(these, those, strict=True)):
        return math.inf
    worst = 0.0
    for a, b in zip(these, those, strict=True):
        if a.numel() and not torch.equal(a, b):
            scale = float(b.double().abs().max()) or 1.0
            error = float((a.double() - b.double()).abs().max()) / scale
            worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def _noise(model: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> float:
    """What one unit in the last place of the inputs does to the outputs, relative."""
    nudged = tuple(torch.nextafter(x, torch.full_like(x, math.inf)) for x in inputs)
    return distance(_answers(model, nudged), outputs)


def _float32_noise(model: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> float:
    try:
        wide = _answers(copy.deepcopy(model).double(), tuple(x.double() for x in inputs))
    except Exception:  # a hard-coded float32
        return _noise(model, inputs, outputs)
    return distance(outputs, wide)


def _compare_exact(row: Row, model: nn.Module, inputs: tuple[Tensor, ...], options: Options) -> None:
    with _timed(row, "tracing to compare"):
        traced = trace(model, inputs)
    rules = load_rules(options.rules)
    original, inputs, whole = _original(row, model, traced, inputs)
    outputs = _answers(original, inputs)
    if not all(y.isfinite().all() for y in outputs) or not any(y.numel() and y.std() > 0 for y in outputs):
        raise Stopped("no signal", "the original's outputs are constant or not finite")
    plan = make_plan(traced, rules, 0.0, "exact")
    row.alpha0 = distance(_answers(whole(rewrite(traced, plan).module, plan), inputs), outputs)
    if row.alpha0 > 0:
        raise Stopped("alpha 0 differs", f"by {row.alpha0:.1e} of the output's scale")
    plan = make_plan(traced, rules, options.alpha, "exact")
    # With data, more may have been traced than when a size was looked for without.
    row.even = row.even and not _odd_maps(traced, plan)
    oracle = whole(reference(traced, plan), plan)
    with _timed(row, "running"):
        wanted = _answers(oracle, inputs)
        got = _answers(whole(rewrite(traced, plan).module, plan), inputs)
    row.exact, row.change = distance(got, wanted), distance(wanted, outputs)
    share = _length(got, wanted) / (_length(wanted, outputs) or 1.0)
    _judge(row, share, lambda: _rounding(row, oracle, inputs, wanted))


def _length(these: Sequence[Tensor], those: Sequence[Tensor]) -> float:
    """The root of the summed squares of all differences."""
    pairs = zip(these, those, strict=True)
    return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))


Whole = Callable[[fx.GraphModule, Plan], nn.Module]


def _original(
    row: Row, model: nn.Module, traced: Traced, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[Tensor, ...], Whole]:
    """What conversions are compared with, its inputs, and how a graph becomes such a module.

    The model itself; where it is in parts and cannot be run to its end, the parts side by side, at random
    inputs.
    """
    if traced.parts is None:
        return model, inputs, lambda graph, plan: graph

    def whole(graph: fx.GraphModule, plan: Plan) -> nn.Module:
        return assemble(traced, graph, frozenset(conv.path for conv in plan.convs if conv.converted))

    if not traced.parts.stopped:
        return model, inputs, whole
    row.detail = f"its parts are compared side by side, for it stops: {traced.parts.stopped}"
    placeholders = traced.module.graph.find_nodes(op="placeholder")
    sizes = [traced.shape(node) or () for node in placeholders]
    generator = torch.Generator().manual_seed(1)
    made = tuple(torch.randn(size, generator=generator).to(inputs[0].dtype) for size in sizes)
    return traced.module, made, lambda graph, plan: graph


def _rounding(row: Row, model: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> float:
    """The noise that rounding makes in ``outputs`` of ``model``, relative."""
    if row.dtype == "float32":
        return _float32_noise(model, inputs, outputs)
    with _Narrow() as narrow:
        _answers(model, inputs)
    if not narrow.seen:
        return _noise(model, inputs, outputs)
    row.dtype = "float64, float32 inside"
    single = tuple(x.float() for x in inputs)
    return distance(_answers(copy.deepcopy(model).float(), single), outputs)


class _Narrow(TorchDispatchMode):
    """Notes whether anything is computed in less than float64."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = pytree.tree_leaves(result)
        self.seen |= any(
            isinstance(y, Tensor) and y.is_floating_point() and y.dtype != torch.float64 for y in leaves
        )
        return result


def _judge(row: Row, share: float, noise: Callable[[], float]) -> None:
    """Set the status. ``share``: of the error in what the projection changes, both over all outputs."""
    assert row.exact is not None
    assert row.change is not None
    if row.change == 0:
        raise Stopped("no signal", "the projection changes nothing")
    if row.dtype == "float64" and row.exact <= EXACT:
        return
    row.noise = noise()
    allowed = NOISE_FACTOR * row.noise
    if row.exact <= allowed and allowed < row.change / 10:
        return
    if row.exact <= allowed:
        raise Stopped("chaotic", f"rounding alone makes {row.noise:.1e} of the output's scale")
    if row.even:
        raise Stopped("differs", f"by {row.exact:.1e} of the output's scale, its noise is {row.noise:.1e}")
    if not share <= ODD_SHARE:  # NaN is no share
        raise Stopped("differs", f"odd maps, by {row.exact:.1e}, {share:.0%} of what the projection does")
    row.status = "ok, odd"
    row.detail = f"by {row.exact:.1e} at odd sizes, {share:.1%} of what the projection does"


def _compare_onnx(row: Row, model: nn.Module, inputs: tuple[Tensor, ...], options: Options) -> None:
    traced = trace(model, inputs)
    if traced.parts is not None and traced.parts.stopped:  # it cannot be run to its end: its parts can
        plan = make_plan(traced, load_rules(options.rules), options.alpha)
        _, inputs, whole = _original(row, model, traced, inputs)
        converted = whole(rewrite(traced, plan).module, plan).eval()
    else:
        converted = octify.convert(model, inputs, options.alpha, rules=options.rules).model.eval()
    with _timed(row, "onnx"), tempfile.TemporaryDirectory() as folder:
        try:
            row.onnx = _exported(converted, inputs, Path(folder) / "model.onnx", dynamic_batch=True)
        except OctifyError as error:
            if "one batch size" not in str(error):
                raise Stopped("onnx", brief(error)) from error
            row.detail = "exported for one batch size: its code fixes it"
            row.onnx = _exported(converted, inputs, Path(folder) / "model.onnx", dynamic_batch=False)


def _exported(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, dynamic_batch: bool) -> float:
    return octify.export_onnx(model, inputs, path, dynamic_batch=dynamic_batch).max_rel_error

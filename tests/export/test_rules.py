"""Each rewrite rule of exported ONNX graphs: what it makes of a match, and why it leaves what is not one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxscript.rewriter import MatchingTracer, RewriteRule

from octify.export.activation import ActivationOfSum
from octify.export.batchnorm import BatchNormToConvolution
from octify.export.ceil import PoolWithoutCeil
from octify.export.crop import CropToConvolution
from octify.export.deploy import RULES
from octify.export.halving import HalvingPoolToConvolution
from octify.export.linear import MergeIntoLinear
from octify.export.mean import MeanToPool
from octify.export.oddpool import OddPoolToConvolution
from octify.export.pad import PadIntoPool
from octify.export.resize import ResizeByScales, ResizeToConstantSize
from octify.export.slices import SlicesToOne
from octify.export.upsample import UpsampleBeforeConvolution
from octify.export.widening import WideningOfHigh, WideningOfLow


@dataclass(frozen=True)
class Case:
    """A rule and a graph, in ONNX's textual form.

    after:
        The operators that the rule leaves, in order; None where it refuses.
    why:
        What its refusal says.
    weights:
        Shapes of random initialisers by name.
    """

    rule: RewriteRule
    inputs: str
    outputs: str
    body: str
    after: Sequence[str] | None = None
    why: str = ""
    weights: dict[str, tuple[int, ...]] | None = None
    opset: int = 20


IMAGE, ONE_IMAGE = "float[N,4,6,7] x", "float[1,4,6,7] x"
NORM = dict.fromkeys(("s", "b", "m"), (4,))
BATCHNORM, SCALES, SIZE = BatchNormToConvolution.rule(), ResizeByScales.rule(), ResizeToConstantSize.rule()
AVERAGE, LARGEST = PoolWithoutCeil.rule("AveragePool"), PoolWithoutCeil.rule("MaxPool")
HALVING, PAD, MEAN = HalvingPoolToConvolution.rule(), PadIntoPool.rule(), MeanToPool.rule()
SLICES, CROP, LINEAR = SlicesToOne.rule(), CropToConvolution.rule(), MergeIntoLinear.rule()
ODD, WIDE_HIGH, WIDE_LOW = OddPoolToConvolution.rule(), WideningOfHigh.rule(), WideningOfLow.rule()
UPSAMPLE, CLIP, LEAKY = (
    UpsampleBeforeConvolution.rule(),
    ActivationOfSum.rule("Clip"),
    ActivationOfSum.rule("LeakyRelu"),
)

_NORM = (
    "v = Constant<value = float[4] {1.0, 2.0, 0.5, 4.0}>() "
    "y = BatchNormalization<epsilon = 1e-3>(x, s, b, m, v)"
)
_NEAREST = '<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"{}>'
_DOUBLE = "u = Constant<value = float[4] {1, 1, 2, 2}>() "


def _resize(sizes: str, more: str = "") -> str:
    return f"z = Constant<value = int64[4] {{{sizes}}}>() y = Resize{_NEAREST.format(more)}(x, , , z)"


def _slice(source: str, into: str, start: int, end: int, axis: int) -> str:
    """``into``: ``source`` from ``start`` to ``end`` on ``axis``."""
    bounds = "".join(
        f"{into}{i} = Constant<value = int64[1] {{{n}}}>() " for i, n in enumerate((start, end, axis))
    )
    return f"{bounds} {into} = Slice({source}, {into}0, {into}1, {into}2) "


def _pad(amounts: str, filler: str = "-inf", mode: str = "constant") -> str:
    return (
        f"p = Constant<value = int64[8] {{{amounts}}}>() f = Constant<value_float = {filler}>() "
        f'd = Pad<mode = "{mode}">(x, p, f) y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(d)'
    )


def _mean(axes: str, keep: int, size: int = 2) -> str:
    return f"a = Constant<value = int64[{size}] {{{axes}}}>() y = ReduceMean<keepdims = {keep}>(x, a)"


def _linear(mode: str = "nearest", order: str = "5, 0, 1, 2, 3, 4", crop: int = 5) -> str:
    """High (N, 4, 6, 5) and low (N, 2, 3, 3), upsampled, cropped, put in order, flattened, and read."""
    settings = _NEAREST.format("") if mode == "nearest" else f'<mode = "{mode}">'
    return (
        f"{_DOUBLE} w = Resize{settings}(l, , u) {_slice('w', 'c', crop - 5, crop, 3)} "
        f"i = Constant<value = int64[6] {{{order}}}>() o = Concat<axis = 1>(h, c) g = Gather<axis = 1>(o, i) "
        "f = Flatten(g) y = Gemm<transB = 1>(f, k, b)"
    )


def _sum(third: str) -> str:
    """A convolution, an upsampled one and ``third``, added up."""
    return (
        f"{_DOUBLE} a = Conv(h, k) n = Conv(l, q) w = Resize{_NEAREST.format('')}(n, , u) "
        f"s = Add(a, w) {third} y = Add(s, t)"
    )


def _widened(activation: str = "y = Clip(s, o, m)", first: str = "Conv(h, k, d)") -> str:
    """An activation of a convolution and an upsampled one."""
    return (
        f"{_DOUBLE} a = {first} n = Conv(l, q) w = Resize{_NEAREST.format('')}(n, , u) "
        f"s = Add(a, w) {activation}"
    )


def _side_by_side(activation: str = "y = Clip(s, o, m)") -> str:
    """An activation of two convolutions of maps of one size."""
    return f"a = Conv(h, k, d) b = Conv(l, q, e) s = Add(a, b) {activation}"


ODD_POOL = "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1{}>(x)"
WIDE_INPUTS, LOW_INPUTS = "float[N,4,6,8] h, float[N,2,3,4] l", "float[N,4,6,8] h, float[N,2,6,8] l"
WIDE_OUTPUTS = "float[N,12,6,8] y"
WIDE_WEIGHTS = {"k": (12, 4, 1, 1), "q": (12, 2, 1, 1), "d": (12,), "e": (12,), "o": (), "m": ()}
LINEAR_INPUTS, LINEAR_WEIGHTS = "float[N,4,6,5] h, float[N,2,3,3] l", {"k": (3, 180), "b": (3,)}
SUM_INPUTS, SUM_WEIGHTS = (
    "float[1,4,6,8] h, float[1,2,3,4] l, float[1,8,6,8] r",
    {"k": (8, 4, 1, 1), "q": (8, 2, 1, 1)},
)
POOLED = "float[N,4,3,4] y"

CASES = {
    "batchnorm of maps": Case(BATCHNORM, IMAGE, "float[N,4,6,7] y", _NORM, ["Conv"], weights=NORM),
    "batchnorm of signals": Case(
        BATCHNORM, "float[N,4,9] x", "float[N,4,9] y", _NORM, ["Conv"], weights=NORM
    ),
    "batchnorm of rows": Case(BATCHNORM, "float[N,4] x", "float[N,4] y", _NORM, ["Mul", "Add"], weights=NORM),
    "batchnorm of computed weights": Case(
        BATCHNORM,
        IMAGE,
        "float[N,4,6,7] y",
        "v = Abs(m) y = BatchNormalization(x, s, b, m, v)",
        why="not all constants",
        weights=NORM,
    ),
    "resize by whole scales": Case(
        SCALES, ONE_IMAGE, "float[1,4,12,21] y", _resize("1, 4, 12, 21"), ["Resize"]
    ),
    "resize by other scales": Case(
        SCALES, ONE_IMAGE, "float[1,4,9,7] y", _resize("1, 4, 9, 7"), why="no whole numbers"
    ),
    "resize to a size": Case(SIZE, ONE_IMAGE, "float[1,4,9,7] y", _resize("1, 4, 9, 7"), ["Resize"]),
    "resize before axes": Case(
        SIZE, ONE_IMAGE, "float[1,4,9,7] y", _resize("1, 4, 9, 7"), why="from opset", opset=17
    ),
    "resize of channels": Case(
        SIZE, ONE_IMAGE, "float[1,8,9,7] y", _resize("1, 8, 9, 7"), why="or the channels"
    ),
    "resize that keeps proportions": Case(
        SIZE,
        ONE_IMAGE,
        "float[1,4,m,n] y",
        _resize("1, 4, 9, 10", ', keep_aspect_ratio_policy = "not_larger"'),
        why="hang on each other",
    ),
    "ceil that changes nothing": Case(
        AVERAGE,
        "float[N,4,6,8] x",
        POOLED,
        "y = AveragePool<ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]>(x)",
        ["AveragePool"],
    ),
    "ceil of dilated windows": Case(
        LARGEST,
        "float[N,4,7,9] x",
        "float[N,4,3,4] y",
        "y = MaxPool<ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]>(x)",
        ["MaxPool"],
    ),
    "ceil that adds a window": Case(
        AVERAGE,
        IMAGE,
        POOLED,
        "y = AveragePool<ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]>(x)",
        why="sticks out",
    ),
    "ceil of computed padding": Case(
        AVERAGE,
        IMAGE,
        POOLED,
        'y = AveragePool<ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER">(x)',
        why="computes its padding",
    ),
    "halving": Case(
        HALVING,
        "float[N,4,6,7] x",
        "float[N,4,3,3] y",
        "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)",
        ["Conv"],
    ),
    "halving of dilated windows": Case(
        HALVING,
        IMAGE,
        "float[N,4,2,3] y",
        "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]>(x)",
        why="do not tile",
    ),
    "halving with ceil": Case(
        HALVING,
        IMAGE,
        POOLED,
        "y = AveragePool<ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]>(x)",
        why="may stick out",
    ),
    "halving with padding": Case(
        HALVING,
        IMAGE,
        "float[N,4,4,4] y",
        "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1]>(x)",
        why="do not tile",
    ),
    "pad": Case(PAD, IMAGE, POOLED, _pad("0, 0, 1, 2, 0, 0, 0, 1"), ["MaxPool"]),
    "pad with zeros": Case(
        PAD, IMAGE, POOLED, _pad("0, 0, 1, 2, 0, 0, 0, 1", "0.0"), why="something else than -inf"
    ),
    "pad by reflection": Case(
        PAD, IMAGE, POOLED, _pad("0, 0, 1, 2, 0, 0, 0, 1", mode="reflect"), why="samples of the map"
    ),
    "pad by a window": Case(
        PAD, IMAGE, "float[N,4,4,4] y", _pad("0, 0, 3, 1, 0, 0, 0, 1"), why="whole window"
    ),
    "pad that crops": Case(PAD, IMAGE, "float[N,4,2,4] y", _pad("0, 0, -1, 1, 0, 0, 0, 1"), why="or crops"),
    "pad of channels": Case(
        PAD, IMAGE, "float[N,5,2,3] y", _pad("0, 1, 0, 0, 0, 0, 0, 0"), why="batch or channels"
    ),
    "mean": Case(MEAN, IMAGE, "float[N,4] y", _mean("-1, 2", 0), ["GlobalAveragePool", "Flatten"]),
    "mean that keeps axes": Case(MEAN, IMAGE, "float[N,4,1,1] y", _mean("2, 3", 1), ["GlobalAveragePool"]),
    "mean over channels": Case(MEAN, IMAGE, "float[N,7] y", _mean("1, 2", 0), why="not height and width"),
    "mean over rows": Case(MEAN, IMAGE, "float[N,4,7] y", _mean("2", 0, 1), why="not height and width"),
    "mean of a video": Case(MEAN, "float[N,4,2,6,7] x", "float[N,4,7] y", _mean("2, 3", 0), why="no image"),
    "slices": Case(
        SLICES, IMAGE, "float[N,4,5,5] y", _slice("x", "c", 0, 5, 2) + _slice("c", "y", 1, 6, 3), ["Slice"]
    ),
    "slices, the inner one read": Case(
        SLICES,
        IMAGE,
        "float[N,4,5,5] y, float[N,4,5,7] z",
        _slice("x", "c", 0, 5, -2) + _slice("c", "y", 1, 6, 3) + "z = Abs(c)",
        ["Slice", "Slice", "Abs"],
    ),
    "three slices": Case(
        SLICES,
        IMAGE,
        "float[N,3,5,5] y",
        _slice("x", "c", 0, 5, 2) + _slice("c", "d", 1, 6, 3) + _slice("d", "y", 1, 4, 1),
        ["Slice"],
    ),
    "slices of one axis": Case(
        SLICES,
        IMAGE,
        "float[N,4,3,7] y",
        _slice("x", "c", 0, 5, 2) + _slice("c", "y", 1, 4, 2),
        why="both crop",
    ),
    "crop": Case(
        CROP,
        IMAGE,
        "float[N,4,5,7] y",
        "c = Conv(x, k) " + _slice("c", "y", 0, 5, 2),
        ["Conv", "Conv"],
        weights={"k": (4, 4, 1, 1)},
    ),
    "crop of a computed map": Case(
        CROP, IMAGE, "float[N,4,5,7] y", "c = Abs(x) " + _slice("c", "y", 0, 5, 2), why="lies in no blocks"
    ),
    "crop of the first row": Case(
        CROP,
        IMAGE,
        "float[N,4,5,7] y",
        "c = Conv(x, k) " + _slice("c", "y", 1, 6, 2),
        why="more than the last",
        weights={"k": (4, 4, 1, 1)},
    ),
    "crop of two rows": Case(
        CROP,
        IMAGE,
        "float[N,4,4,7] y",
        "c = Conv(x, k) " + _slice("c", "y", 0, 4, 2),
        why="more than the last",
        weights={"k": (4, 4, 1, 1)},
    ),
    "crop of channels": Case(
        CROP,
        IMAGE,
        "float[N,3,6,7] y",
        "c = Conv(x, k) " + _slice("c", "y", 0, 3, 1),
        why="more than the last",
        weights={"k": (4, 4, 1, 1)},
    ),
    "linear": Case(
        LINEAR,
        LINEAR_INPUTS,
        "float[N,3] y",
        _linear(),
        ["Flatten", "Flatten", "Concat", "Gemm"],
        weights=LINEAR_WEIGHTS,
    ),
    "linear of interpolated maps": Case(
        LINEAR,
        LINEAR_INPUTS,
        "float[N,3] y",
        _linear("linear"),
        why="not upsampled by copies",
        weights=LINEAR_WEIGHTS,
    ),
    "linear of repeated channels": Case(
        LINEAR,
        LINEAR_INPUTS,
        "float[N,3] y",
        _linear(order="5, 0, 1, 1, 3, 4"),
        why="not every channel",
        weights=LINEAR_WEIGHTS,
    ),
    "linear of maps cropped in front": Case(
        LINEAR, LINEAR_INPUTS, "float[N,3] y", _linear(crop=6), why="at its end", weights=LINEAR_WEIGHTS
    ),
    "upsampling": Case(
        UPSAMPLE,
        SUM_INPUTS,
        "float[1,8,6,8] y",
        _sum("t = Abs(r)"),
        ["Conv", "Resize", "Conv", "Add", "Abs", "Add"],
        weights=SUM_WEIGHTS,
    ),
    "upsampling among convolutions": Case(
        UPSAMPLE,
        SUM_INPUTS,
        "float[1,8,6,8] y",
        _sum("t = Conv(h, k)"),
        why="other terms are convolutions",
        weights=SUM_WEIGHTS,
    ),
    "upsampling of as many channels": Case(
        UPSAMPLE,
        SUM_INPUTS.replace("1,2,3", "1,8,3"),
        "float[1,8,6,8] y",
        _sum("t = Abs(r)"),
        why="few channels to more",
        weights={**SUM_WEIGHTS, "q": (8, 8, 1, 1)},
    ),
    "activation": Case(
        CLIP,
        SUM_INPUTS,
        "float[1,8,6,8] y",
        "a = Conv(h, k) s = Add(a, r) y = Clip(s, o, m) ",
        ["Conv", "Add", "Conv", "Clip"],
        weights={**SUM_WEIGHTS, "o": (), "m": ()},
    ),
    "leaky activation": Case(
        LEAKY,
        SUM_INPUTS,
        "float[1,8,6,8] y",
        "a = Conv(h, k) s = Add(r, a) y = LeakyRelu<alpha = 0.1>(s)",
        ["Conv", "Add", "Conv", "LeakyRelu"],
        weights=SUM_WEIGHTS,
    ),
    "odd pool": Case(ODD, "float[N,4,5,7] x", POOLED, ODD_POOL.format(""), ["Pad", "Conv"]),
    "odd pool of one axis": Case(ODD, "float[N,4,6,7] x", POOLED, ODD_POOL.format(""), ["Pad", "Conv"]),
    "odd pool that means zeros": Case(
        ODD, "float[N,4,5,7] x", POOLED, ODD_POOL.format(", count_include_pad = 1"), why="lies outside"
    ),
    "odd pool of an open size": Case(
        ODD, "float[N,4,A,7] x", "float[N,4,B,4] y", ODD_POOL.format(""), why="a size is open"
    ),
    "widening of high": Case(
        WIDE_HIGH,
        WIDE_INPUTS,
        WIDE_OUTPUTS,
        _widened(),
        ["Resize", "Concat", "Conv", "Clip"],
        weights=WIDE_WEIGHTS,
    ),
    "widening of high before ReLU": Case(
        WIDE_HIGH,
        WIDE_INPUTS,
        WIDE_OUTPUTS,
        _widened("y = Relu(s)"),
        why="fuse with a convolution only",
        weights=WIDE_WEIGHTS,
    ),
    "widening of high with a residual": Case(
        WIDE_HIGH,
        WIDE_INPUTS + ", float[N,12,6,8] r",
        WIDE_OUTPUTS,
        _widened("t = Add(s, r) y = Clip(t, o, m)"),
        why="fuse with a convolution only",
        weights=WIDE_WEIGHTS,
    ),
    "widening of high by few": Case(
        WIDE_HIGH,
        WIDE_INPUTS,
        "float[N,8,6,8] y",
        _widened(),
        why="does not widen",
        weights={**WIDE_WEIGHTS, "k": (8, 4, 1, 1), "q": (8, 2, 1, 1), "d": (8,), "e": (8,)},
    ),
    "widening of high by a wider kernel": Case(
        WIDE_HIGH,
        WIDE_INPUTS,
        WIDE_OUTPUTS,
        _widened(first="Conv<pads = [1, 1, 1, 1]>(h, k, d)"),
        why="no 1x1 convolution",
        weights={**WIDE_WEIGHTS, "k": (12, 4, 3, 3)},
    ),
    "widening of low": Case(
        WIDE_LOW,
        LOW_INPUTS,
        WIDE_OUTPUTS,
        _side_by_side("y = LeakyRelu<alpha = 0.1>(s)"),
        ["Concat", "Conv", "LeakyRelu"],
        weights=WIDE_WEIGHTS,
    ),
    "widening of low that is read twice": Case(
        WIDE_LOW,
        LOW_INPUTS,
        f"{WIDE_OUTPUTS}, float[N,12,6,8] z",
        _side_by_side("y = Clip(s, o, m) z = Neg(s)"),
        why="fuse with a convolution only",
        weights=WIDE_WEIGHTS,
    ),
    "activation of other sums": Case(
        CLIP, SUM_INPUTS, "float[1,8,6,8] y", "a = Abs(r) s = Add(a, r) y = Clip(s)", why="from a convolution"
    ),
}


def model_of(case: Case) -> onnx.ModelProto:
    """The case's graph with its shapes and constants; the latter are initialisers, as in an export."""
    head = f'<ir_version: 9, opset_import: ["" : {case.opset}]>'
    proto = onnx.parser.parse_model(f"{head} net ({case.inputs}) => ({case.outputs}) {{ {case.body} }}")
    random = np.random.default_rng(0)
    for name, shape in (case.weights or {}).items():
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    model = ir.from_proto(inferred)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return ir.to_proto(model)


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    """onnxruntime's outputs for random inputs at a batch of 1."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(1)
    shapes = {v.name: [n if isinstance(n, int) else 1 for n in v.shape] for v in session.get_inputs()}
    feed = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return session.run(None, feed)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.after is not None])
def test_a_match_is_rewritten_to_the_same_function(name: str) -> None:
    case, before = CASES[name], model_of(CASES[name])
    model = ir.from_proto(before)
    assert case.rule.apply_to_model(model) > 0
    ir.passes.common.RemoveUnusedNodesPass()(model)
    assert [node.op_type for node in model.graph] == case.after
    for node in model.graph:  # runtimes plan their layouts by them
        assert all(value.shape is not None and value.dtype is not None for value in node.outputs)
    for have, want in zip(answers(ir.to_proto(model)), answers(before), strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.after is not None])
def test_a_rule_is_through_after_one_application(name: str) -> None:
    case = CASES[name]
    model = ir.from_proto(model_of(case))
    assert case.rule.apply_to_model(model) > 0
    assert case.rule.apply_to_model(model) == 0


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.after is None])
def test_a_refusal_says_why_and_changes_nothing(name: str) -> None:
    case, before = CASES[name], model_of(CASES[name])
    model, tracer = ir.from_proto(before), MatchingTracer()
    case.rule.apply_to_model(model, tracer=tracer)
    reasons = [match.match_result.reason for match in tracer.best_matches_map[case.rule]]
    assert any(case.why in reason for reason in reasons), reasons
    assert case.rule.apply_to_model(model) == 0
    assert [node.op_type for node in model.graph] == [node.op_type for node in before.graph.node]


def test_every_rule_that_has_a_pattern_is_tried_here_both_ways() -> None:
    names = {rule.name for rule in RULES if isinstance(rule, RewriteRule)}
    assert {case.rule.name for case in CASES.values() if case.after is not None} == names
    refused = {case.rule.name for case in CASES.values() if case.after is None}
    assert {name.partition("(")[0] for name in names} == {name.partition("(")[0] for name in refused}

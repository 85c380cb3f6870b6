"""Common ranges around a Concat: never narrower than measured, and equal where bytes are to be copied."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from octify.quantize.ranges import Range, shared


def graph(body: str, outputs: str = "float[1,8,4,4] y") -> ir.Graph:
    head = '<ir_version: 9, opset_import: ["" : 18]> net (float[1,4,4,4] a, float[1,4,2,2] b)'
    model = ir.from_proto(onnx.parser.parse_model(f"{head} => ({outputs}) {{ {body} }}"))
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model.graph


JOINED = "u = Constant<value = float[4] {1, 1, 2, 2}>() w = Resize(b, , u) y = Concat<axis = 1>(a, w)"
ACTIVE = JOINED.replace("Concat<axis = 1>(a, w)", "Concat<axis = 1>(r, w)")
CLIP = "n = Constant<value = float {0}>() m = Constant<value = float {6}>() r = Clip(a, n, m) "
RANGE = st.tuples(st.floats(-10, 0), st.floats(0, 10))


@given(a=RANGE, b=RANGE)
def test_what_is_read_by_a_concat_alone_has_the_range_of_its_output(a: Range, b: Range) -> None:
    union = min(a[0], b[0]), max(a[1], b[1])
    ranges = shared(graph(JOINED), {"a": a, "b": b, "w": b, "y": union})
    assert set(ranges.values()) == {union}


@given(a=RANGE, b=RANGE)
def test_no_range_becomes_narrower(a: Range, b: Range) -> None:
    before = {"a": a, "b": b, "w": b, "y": (min(a[0], b[0]), max(a[1], b[1])), "n": a}
    after = shared(graph(JOINED + " n = Neg(a)", "float[1,8,4,4] y, float[1,4,4,4] n"), before)
    assert after.keys() == before.keys()
    for name, (low, high) in before.items():
        assert after[name][0] <= low and high <= after[name][1]
    assert after["n"] == before["n"]


def test_a_narrow_input_that_is_read_elsewhere_keeps_its_bits() -> None:
    body, outputs = JOINED + " n = Neg(a)", "float[1,8,4,4] y, float[1,4,4,4] n"
    wide, narrow, half = (-8.0, 8.0), (-1.0, 1.0), (-4.0, 4.0)
    assert shared(graph(body, outputs), {"a": narrow, "b": wide, "w": wide, "y": wide})["a"] == narrow
    assert shared(graph(body, outputs), {"a": half, "b": wide, "w": wide, "y": wide})["a"] == wide


@given(a=RANGE, b=RANGE)
def test_what_an_activation_cuts_off_stays_outside(a: Range, b: Range) -> None:
    union, cut = (min(a[0], b[0]), max(a[1], b[1])), (0.0, min(a[1], 6.0))
    for maker, outside in (("r = Relu(a) ", (0.0, float("inf"))), (CLIP, (0.0, 6.0))):
        low, high = shared(graph(maker + ACTIVE), {"r": cut, "b": b, "w": b, "y": union})["r"]
        assert outside[0] <= low <= cut[0] and cut[1] <= high <= outside[1]


def test_a_clip_is_widened_up_to_where_it_cuts() -> None:
    near, far = (0.0, 4.0), (0.0, 6.0)
    assert shared(graph(CLIP + ACTIVE), {"r": near, "b": far, "w": far, "y": far})["r"] == far
    beyond = (0.0, 7.0)
    assert shared(graph(CLIP + ACTIVE), {"r": near, "b": beyond, "w": beyond, "y": beyond})["r"] == near


def test_a_value_that_was_not_measured_is_left_alone() -> None:
    assert shared(graph(JOINED), {"a": (-1.0, 1.0), "y": (-2.0, 2.0)}) == {"a": (-1.0, 1.0), "y": (-2.0, 2.0)}

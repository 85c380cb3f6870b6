"""Upsampling of int8 maps by copies: bit by bit what the Resize between the same scales computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxscript.rewriter import MatchingTracer

from octify.quantize.copies import UpsampleByCopies

NEAREST = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def graph(
    channels: int,
    height: int,
    width: int,
    *,
    batch: str = "N",
    settings: str = NEAREST,
    scales: str = "1, 1, 2, 2",
    scale_out: float = 0.05,
    more: str = "",
    outputs: str = "",
) -> onnx.ModelProto:
    """Quantized float maps, upsampled between DequantizeLinear and QuantizeLinear."""
    factor = [int(n) for n in scales.split(", ")[2:]]
    shape = f"{batch},{channels},{height * factor[0]},{width * factor[1]}"
    body = (
        "s = Constant<value = float {0.05}>() z = Constant<value = uint8 {7}>() "
        f"t = Constant<value = float {{{scale_out}}}>() u = Constant<value = float[4] {{{scales}}}>() "
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        f"w = Resize<{settings}>(d, , u) y = QuantizeLinear(w, t, z) {more}"
    )
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> net (float[{batch},{channels},{height},{width}] x) => '
        f"(uint8[{shape}] y{outputs}) {{ {body} }}"
    )
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    model = ir.from_proto(inferred)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return ir.to_proto(model)


def answers(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers).run(
        None, {"x": x}
    )


@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    rows=st.integers(1, 3),
    open_batch=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_copies_are_the_resize_bit_by_bit(
    channels: int, height: int, width: int, rows: int, open_batch: bool, seed: int
) -> None:
    before = graph(channels, height, width, batch="N" if open_batch else str(rows))
    model = ir.from_proto(before)
    assert UpsampleByCopies.rule().apply_to_model(model) == 1
    ir.passes.common.RemoveUnusedNodesPass()(model)
    after = ir.to_proto(model)
    assert "Resize" not in {node.op_type for node in after.graph.node}
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(seed).uniform(-3, 14, (rows, channels, height, width)).astype(np.float32)
    (have,), (want,) = answers(after, x), answers(before, x)
    assert have.dtype == want.dtype == np.uint8
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"scale_out": 0.1}, "scales in front and behind differ"),
        ({"scales": "1, 1, 4, 4"}, "no upsampling by 2"),
        ({"scales": "1, 1, 2, 4"}, "no upsampling by 2"),
        ({"settings": 'mode = "linear"'}, "no upsampling by 2"),
        ({"settings": 'mode = "nearest", coordinate_transformation_mode = "align_corners"'}, "no upsampling"),
        ({"more": "f = Neg(w)", "outputs": ", float[N,4,6,8] f"}, "read as floats too"),
    ],
)
def test_what_is_no_copy_stays(options: dict[str, object], why: str) -> None:
    before = graph(4, 3, 4, **options)  # type: ignore[arg-type]
    model, tracer, rule = ir.from_proto(before), MatchingTracer(), UpsampleByCopies.rule()
    assert rule.apply_to_model(model, tracer=tracer) == 0
    reasons = [match.match_result.reason for match in tracer.best_matches_map[rule]]
    assert any(why in reason for reason in reasons), reasons
    assert [node.op_type for node in model.graph] == [node.op_type for node in before.graph.node]

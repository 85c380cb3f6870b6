"""Upsampling in front of a 1x1 convolution instead of behind it, where that spares whole maps of memory.

A low branch that is upsampled into a sum with a residual leaves two terms that no convolution makes. Runtimes
add these by themselves: the residual, the upsampled map and their sum lie in memory at once, three maps
where a sum of convolutions takes one, in place. A 1x1 convolution and upsampling by copies commute,
``U (W l + b) = W (U l) + b``, and upsampled before, the narrow map is written instead of the wide one, and
every term beside the residual is a convolution.

The convolution then has four times its multiplications, a saving only while they take less time than
the passes over the wide map: for ``WIDEST`` channels or fewer.
"""

from __future__ import annotations

import onnx_ir as ir

from octify.export.edit import inserted, ints, lone_producer
from octify.export.sums import is_end_of_sum, terms_of_sum, upsampled_terms

WIDEST = 32  # channels read; measured with ResNet-50, whose stages have 32, 64, 128 in the low branch


def upsampled_before_convolution(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """``residual + conv(a) + U conv(l)``, the sum that ends in ``node``, becomes ``... + conv(U l)``."""
    if node.graph is None or not is_end_of_sum(node):
        return
    terms = terms_of_sum(node)
    upsampled = upsampled_terms(terms)
    others = [term for term in terms if term not in upsampled and lone_producer(term, "Conv") is None]
    if len(upsampled) != 1 or not others:  # several are added up first, and one alone is nobody's burden
        return
    resize = upsampled[0].producer()
    conv = None if resize is None or resize.inputs[0] is None else lone_producer(resize.inputs[0], "Conv")
    if resize is not None and conv is not None and _widens(conv):
        _exchange(resize, conv)


def _widens(conv: ir.Node) -> bool:
    """Whether ``conv`` is 1x1, of few channels to more."""
    weight, source = conv.inputs[1], conv.inputs[0]
    if weight is None or weight.const_value is None or source is None or source.shape is None:
        return False
    out, read, *taps = weight.const_value.shape.numpy()
    alone = set(ints(conv, "strides", [1])) == {1} and not any(ints(conv, "pads", [0]))
    one_group = "group" not in conv.attributes or conv.attributes["group"].as_int() == 1
    return alone and one_group and set(taps) == {1} and read <= WIDEST and read < out


def _exchange(resize: ir.Node, conv: ir.Node) -> None:
    """The ``resize`` behind ``conv``, their only link, moves in front of it; readers then read ``conv``."""
    source, result, wide = conv.inputs[0], conv.outputs[0], resize.outputs[0]
    assert source is not None and source.shape is not None and wide.shape is not None
    name = f"{source.name}_for_{wide.name}"
    up = inserted(conv, "Resize", [source, *resize.inputs[1:]], name, list(resize.attributes.values()))
    up.type, up.shape = source.type, ir.Shape([*source.shape[:2], *wide.shape[2:]])
    conv.replace_input_with(0, up)
    result.shape = wide.shape
    for use in list(wide.uses()):
        use.node.replace_input_with(use.idx, result)
    assert resize.graph is not None
    resize.graph.remove(resize, safe=True)

"""Rewrites of an exported ONNX graph that make it fit to deploy. Every rule keeps the function.

One rule per function; it edits the graph around one node, or leaves it. The exporter and
onnxscript's optimizer (which merges common subexpressions, such as the pooling that all readers of an
octave value share) have run before; initialisers that the rules made equal are merged after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from octify.export.activation import activation_of_sum_by_convolution
from octify.export.crop import crop_by_convolution, slices_to_one
from octify.export.edit import becomes, constant, inserted, ints, known, lone_producer
from octify.export.linear import merge_into_linear
from octify.export.sums import sums_in_order
from octify.export.upsample import upsampled_before_convolution

Rule = Callable[[ir.Graph, ir.Node, int], None]
_AXES_OPSET = 18  # the first in which Resize takes "axes"


def make_deployable(model: ir.Model) -> None:
    """Apply every rule to ``model`` and clean up, in place.

    Names and stack traces of the Python source go too: a file to hand on does not carry the paths
    of the machine it was made on.
    """
    opset = model.opset_imports[""]
    constants_in_order(model)
    for rule in RULES:
        for node in list(model.graph):
            rule(model.graph, node, opset)
    for clean_up in (
        passes.RemoveUnusedNodesPass(),
        passes.DeduplicateHashedInitializersPass(),  # large means and selections too
        passes.ClearMetadataAndDocStringPass(),
    ):
        clean_up(model)
    weights_smallest_first(model.graph)
    model.metadata_props.clear()
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None


def constants_in_order(model: ir.Model) -> None:
    """Copy constants that are not in row-major order in memory, as those of channels_last weights.

    What follows reads them as bytes.
    """
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            array = tensor.numpy()
            if not array.flags["C_CONTIGUOUS"]:
                value.const_value = ir.Tensor(
                    np.ascontiguousarray(array), dtype=tensor.dtype, name=tensor.name
                )


def weights_smallest_first(graph: ir.Graph) -> None:
    """Order the initialisers by size, the largest last.

    onnxruntime reads them in order, copies most into its own layout and frees them. Small ones that stay
    are then not strewn among large ones, and the first inference finds the freed memory in one piece: with
    ResNet-50 at batch 8 it otherwise took 50 to 60 MB more in every second process.
    """
    values = list(graph.initializers.values())
    graph.initializers.clear()
    for value in sorted(
        values, key=lambda value: 0 if value.const_value is None else value.const_value.nbytes
    ):
        graph.register_initializer(value)


def resize_by_constants(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Resize to a size: by constant scales where they are whole numbers, else to a constant size.

    The exporter computes the size at run time (Shape, Concat) because the batch is not known, though
    batch and channels are never resized.
    """
    if node.op_type != "Resize" or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    policy = node.attributes.get("keep_aspect_ratio_policy")
    source, target = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or target.shape is None or "axes" in node.attributes:
        return
    if (policy is not None and policy.as_string() != "stretch") or source.shape[:2] != target.shape[:2]:
        return
    have, want = known(source.shape[2:]), known(target.shape[2:])
    if have is None or want is None:
        return
    factors = [w / h for w, h in zip(want, have, strict=True)]
    if all(factor.is_integer() for factor in factors):
        node.resize_inputs(3)
        scales = np.array([1.0, 1.0, *factors], dtype=np.float32)
        node.replace_input_with(2, constant(graph, target, "scales", scales))
    elif opset >= _AXES_OPSET:
        sizes = np.array(want, dtype=np.int64)
        node.replace_input_with(3, constant(graph, target, "sizes", sizes))
        node.attributes["axes"] = ir.AttrInt64s("axes", range(2, 2 + len(want)))


def pool_without_ceil(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Drop ``ceil_mode`` from a pooling whose windows tile the (padded) input exactly."""
    ceil = node.attributes.get("ceil_mode")
    if node.op_type not in ("AveragePool", "MaxPool") or ceil is None or not ceil.as_int():
        return
    source = node.inputs[0]
    if source is None or source.shape is None:
        return
    if _pads_by_itself(node):
        return
    size, kernel = known(source.shape[2:]), node.attributes["kernel_shape"].as_ints()
    if size is None:
        return
    dims = len(kernel)
    strides = ints(node, "strides", [1] * dims)
    dilations = ints(node, "dilations", [1] * dims)
    pads = ints(node, "pads", [0] * 2 * dims)
    for axis, n in enumerate(size):
        window = dilations[axis] * (kernel[axis] - 1) + 1
        if (n + pads[axis] + pads[axis + dims] - window) % strides[axis]:
            return
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)


def pool_by_two_to_conv(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """A 2x average pooling of images becomes a depthwise Conv of weights 1/4.

    In float it takes the same time. Of channels that fill no whole blocks of 8 or 16, in which runtimes keep
    maps, they do a convolution there but leave that layout for a pooling; and their integer average
    pooling, which a quantized file would get, is slow where their integer depthwise convolution is not.
    """
    source = node.inputs[0]
    if node.op_type != "AveragePool" or source is None or source.shape is None or source.dtype is None:
        return
    channels, kernel = source.shape[1], node.attributes["kernel_shape"].as_ints()
    ceil = node.attributes.get("ceil_mode")
    if not isinstance(channels, int) or (ceil is not None and ceil.as_int()):
        return
    strides = ints(node, "strides", [1] * len(kernel))
    tiles = list(kernel) == strides and not any(ints(node, "pads", [0]))
    if list(kernel) != [2, 2] or not tiles or _pads_by_itself(node):
        return
    weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), dtype=source.dtype.numpy())
    node.attributes.clear()
    becomes(node, "Conv", source, constant(graph, node.outputs[0], "mean", weight))
    node.attributes["group"] = ir.AttrInt64("group", channels)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)
    node.attributes["strides"] = ir.AttrInt64s("strides", strides)


def pad_into_pool(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """Padding with -inf in front of a MaxPool is the padding that MaxPool does itself, in its own layout."""
    source = node.inputs[0] if node.op_type == "MaxPool" else None
    pad = None if source is None else lone_producer(source, "Pad")
    if pad is None or len(pad.inputs) < 3 or any(value is not None for value in pad.inputs[3:]):
        return
    mode = pad.attributes.get("mode")
    constants = [None if value is None else value.const_value for value in pad.inputs[1:3]]
    if (mode is not None and mode.as_string() != "constant") or any(c is None for c in constants):
        return
    if _pads_by_itself(node):
        return
    amounts, filler = (c.numpy().reshape(-1).tolist() for c in constants if c is not None)
    kernel = node.attributes["kernel_shape"].as_ints()
    dims = len(kernel)
    begin, end = amounts[2 : 2 + dims], amounts[4 + dims :]
    outside = amounts[:2] + amounts[2 + dims : 4 + dims]
    pads = [a + b for a, b in zip(ints(node, "pads", [0] * 2 * dims), begin + end, strict=True)]
    allowed = all(0 <= n < kernel[axis % dims] for axis, n in enumerate(pads))  # what ONNX allows
    if filler == [float("-inf")] and not any(outside) and allowed and min(begin + end) >= 0:
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.replace_input_with(0, pad.inputs[0])


def mean_to_pool(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """The mean of an image over height and width is a GlobalAveragePool, done in the runtime's own layout."""
    if node.op_type != "ReduceMean" or len(node.inputs) != 2 or node.inputs[1] is None:
        return
    source, axes, target = node.inputs[0], node.inputs[1].const_value, node.outputs[0]
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None:
        return
    if {int(axis) % 4 for axis in axes.numpy().reshape(-1)} != {2, 3}:
        return
    keep = node.attributes.get("keepdims")
    keeps = keep is None or bool(keep.as_int())
    node.attributes.clear()
    if keeps:
        becomes(node, "GlobalAveragePool", source)
        return
    pooled = inserted(node, "GlobalAveragePool", [source], f"{target.name}_pooled")
    pooled.type, pooled.shape = target.type, ir.Shape([*source.shape[:2], 1, 1])
    becomes(node, "Flatten", pooled)


def batchnorm_to_conv(graph: ir.Graph, node: ir.Node, opset: int) -> None:
    """A BatchNormalization that nothing absorbed becomes a 1x1 depthwise Conv, or Mul and Add on (N, C).

    Reached for models that torch.fx cannot trace, and for functional ``F.batch_norm``.
    """
    training = node.attributes.get("training_mode")
    if node.op_type != "BatchNormalization" or (training is not None and training.as_int()):
        return
    tensors = [None if value is None else value.const_value for value in node.inputs[1:5]]
    source = node.inputs[0]
    if source is None or source.shape is None or len(tensors) != 4:
        return
    weight, bias, mean, variance = (None if t is None else t.numpy().astype(np.float64) for t in tensors)
    if weight is None or bias is None or mean is None or variance is None:
        return
    epsilon = node.attributes.get("epsilon")
    scale = weight / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    shift = bias - mean * scale
    target, dtype, spatial = node.outputs[0], source.dtype or ir.DataType.FLOAT, len(source.shape) - 2
    node.attributes.clear()
    if spatial > 0:
        kernel = scale.reshape(-1, 1, *[1] * spatial)
        becomes(node, "Conv", source, constant(graph, target, "scale", kernel.astype(dtype.numpy())))
        node.attributes["group"] = ir.AttrInt64("group", scale.size)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1] * spatial)
    else:
        factor = constant(graph, target, "scale", scale.astype(dtype.numpy()))
        product = inserted(node, "Mul", [source, factor], f"{target.name}_scaled")
        product.type, product.shape = target.type, target.shape
        becomes(node, "Add", product)
    node.resize_inputs(len(node.inputs) + 1)
    node.replace_input_with(
        len(node.inputs) - 1, constant(graph, target, "shift", shift.astype(dtype.numpy()))
    )


RULES: tuple[Rule, ...] = (
    batchnorm_to_conv,
    resize_by_constants,
    pool_without_ceil,
    pool_by_two_to_conv,
    pad_into_pool,
    mean_to_pool,
    slices_to_one,
    merge_into_linear,
    crop_by_convolution,
    upsampled_before_convolution,
    sums_in_order,
    activation_of_sum_by_convolution,
)


def _pads_by_itself(node: ir.Node) -> bool:
    """Whether the runtime computes a pooling's padding."""
    auto = node.attributes.get("auto_pad")
    return auto is not None and auto.as_string() != "NOTSET"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs

"""Rewrites of an exported ONNX graph for deployment. Every rule preserves the function.

One rule per file (``onnxscript.rewriter``): a pattern of nodes, a check that accepts a match or gives the
reason against it, and the replacement. The exporter and onnxscript's optimizer (which merges common
subexpressions, such as the pooling that all readers of an octave value share) have run before; initialisers
that the rules made equal are merged after.
"""
# mypy: allow-untyped-calls
# (onnxscript's ``rule()`` has no annotations.)

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from octify.export.activation import ActivationOfSum
from octify.export.batchnorm import BatchNormToConvolution
from octify.export.ceil import PoolWithoutCeil
from octify.export.crop import CropToConvolution
from octify.export.halving import HalvingPoolToConvolution
from octify.export.linear import MergeIntoLinear
from octify.export.mean import MeanToPool
from octify.export.oddpool import OddPoolToConvolution
from octify.export.pad import PadIntoPool
from octify.export.resize import ResizeByScales, ResizeToConstantSize
from octify.export.slices import SlicesToOne
from octify.export.sums import SumsInOrder
from octify.export.targets import ExportTarget, is_for
from octify.export.upsample import UpsampleBeforeConvolution
from octify.export.widening import WideningOfHigh, WideningOfLow


class GraphRule(Protocol):
    """Rewrite of a whole model, in place: a ``RewriteRule``, or one that no pattern can express."""

    def apply_to_model(self, model: ir.Model) -> object: ...


# In order, each to the whole graph: a later rule matches what an earlier one wrote. Rules that are not for
# every target stand in octify.export.targets.
RULES: tuple[GraphRule, ...] = (
    BatchNormToConvolution.rule(),
    ResizeByScales.rule(),
    ResizeToConstantSize.rule(),
    PoolWithoutCeil.rule("AveragePool"),
    PoolWithoutCeil.rule("MaxPool"),
    HalvingPoolToConvolution.rule(),
    OddPoolToConvolution.rule(),
    PadIntoPool.rule(),
    MeanToPool.rule(),
    SlicesToOne.rule(),
    MergeIntoLinear.rule(),
    CropToConvolution.rule(),
    WideningOfHigh.rule(),
    WideningOfLow.rule(),
    UpsampleBeforeConvolution.rule(),
    SumsInOrder(),
    ActivationOfSum.rule("Clip"),
    ActivationOfSum.rule("LeakyRelu"),
)


def make_deployable(model: ir.Model, target: ExportTarget = ExportTarget.onnxruntime) -> None:
    """Apply every rule for ``target`` to ``model`` and clean up, in place.

    Names and stack traces of the Python source go too: a file to hand on does not carry the paths
    of the machine it was made on.
    """
    constants_in_order(model)
    for rule in RULES:
        if not is_for(rule, target):
            continue
        rule.apply_to_model(model)
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


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs

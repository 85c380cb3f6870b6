"""The items of the calibration data, one by one (``octify.data.items`` says what an item is)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor

from octify.data.files import is_dataset
from octify.data.items import parse_item
from octify.errors import OctifyError
from octify.trace import Traced

Row = tuple[Tensor, ...]


def each(data: Iterable[Any]) -> Iterator[Any]:
    """The items of ``data``; of a dataset those from 0 to its length. Raises OctifyError if it has none."""
    if is_dataset(data):
        dataset = cast("Any", data)
        return (dataset[i] for i in range(len(dataset)))
    try:
        return iter(data)
    except TypeError:
        raise OctifyError(
            f"calibration data is a {type(data).__name__}",
            why='it is an iterable of inputs, such as a DataLoader, or the word "synthetic"',
            hint="a list of tensors will do; octify convert --calib reads folders and files",
        ) from None


def rows_of(traced: Traced, item: Any, number: int) -> list[Row]:
    """The inputs of ``item``, the ``number``-th of the data, one by one, each with a batch dimension of 1.

    Raises OctifyError when it is not what the model takes.
    """
    names = [str(node.target) for node in traced.module.graph.find_nodes(op="placeholder")]
    where = f"item {number} of the calibration data"
    parsed = parse_item(item, traced.inputs, where, names=names, labelled=False)
    return [tuple(x[i : i + 1] for x in parsed.inputs) for i in range(len(parsed))]

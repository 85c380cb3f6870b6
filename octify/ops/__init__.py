"""Operations that octify supports: one file per family, one table of all of them.

A family is an ``Op``: what it handles, how channel ids pass through (or a refusal with its
reason), and how it is rewritten on octave values. A third party adds one through the entry
point group ``octify.ops``, whose objects are ``Op``s or tuples of them and come first.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from octify.layout.channels import Ids, Refusal
from octify.layout.roles import View
from octify.ops.activation import OPS as ACTIVATION
from octify.ops.arithmetic import OPS as ARITHMETIC
from octify.ops.assign import OPS as ASSIGN
from octify.ops.base import Op, Table, operand
from octify.ops.channels_last import OPS as CHANNELS_LAST
from octify.ops.chunk import OPS as CHUNK
from octify.ops.concat import OPS as CONCAT
from octify.ops.conv import OPS as CONV
from octify.ops.conv_function import OPS as CONV_FUNCTION
from octify.ops.conv_transpose import OPS as CONV_TRANSPOSE
from octify.ops.emitter import Emitter, Value
from octify.ops.expand_as import OPS as EXPAND_AS
from octify.ops.functional_norm import OPS as FUNCTIONAL_NORM
from octify.ops.global_context import OPS as GLOBAL_CONTEXT
from octify.ops.group_norm import OPS as GROUP_NORM
from octify.ops.indexing import OPS as INDEXING
from octify.ops.layer_norm import OPS as LAYER_NORM
from octify.ops.linear import OPS as LINEAR
from octify.ops.norm import OPS as NORM
from octify.ops.padding import OPS as PADDING
from octify.ops.permute import OPS as PERMUTE
from octify.ops.pixel_shuffle import OPS as PIXEL_SHUFFLE
from octify.ops.pool import OPS as POOL
from octify.ops.rearrange import OPS as REARRANGE
from octify.ops.reduction import OPS as REDUCTION
from octify.ops.reshape import OPS as RESHAPE
from octify.ops.resize import OPS as RESIZE
from octify.ops.response_norm import OPS as RESPONSE_NORM
from octify.ops.shape import OPS as SHAPE
from octify.ops.softmax import OPS as SOFTMAX
from octify.ops.uniform import OPS as UNIFORM
from octify.ops.walk import Walk

__all__ = [
    "BUILT_IN",
    "Emitter",
    "Ids",
    "Op",
    "Refusal",
    "Table",
    "Value",
    "View",
    "Walk",
    "operand",
    "table",
]

BUILT_IN: tuple[Op, ...] = (
    *CONV,
    *CONV_TRANSPOSE,
    *CONV_FUNCTION,
    *LINEAR,
    *PADDING,
    *NORM,
    *GROUP_NORM,
    *LAYER_NORM,
    *RESPONSE_NORM,
    *FUNCTIONAL_NORM,
    *ACTIVATION,
    *ARITHMETIC,
    *CONCAT,
    *GLOBAL_CONTEXT,
    *EXPAND_AS,
    *PIXEL_SHUFFLE,
    *REARRANGE,
    *CHUNK,
    *INDEXING,
    *RESHAPE,
    *PERMUTE,
    *POOL,
    *REDUCTION,
    *RESIZE,
    *SHAPE,
    *UNIFORM,
    *ASSIGN,
)


# Rules that are others where an operand's channels are not in dimension 1.
ON_VIEWS: tuple[Op, ...] = (*CHANNELS_LAST, *SOFTMAX)


@lru_cache(maxsize=2)
def table(views: bool = False) -> Table:
    """All known operations: third-party ones first, then the built-in.

    With ``views`` those that know values whose channels are not in dimension 1.
    """
    extra: list[Op] = []
    for point in entry_points(group="octify.ops"):
        entry = point.load()
        extra += entry if isinstance(entry, (tuple, list)) else [entry]
    if views:
        return Table([op for op in (*extra, *ON_VIEWS, *BUILT_IN) if op.views])
    return Table((*extra, *BUILT_IN))

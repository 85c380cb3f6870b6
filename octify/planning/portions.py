"""Choice of the low channels of a cell where some convolutions read only a part of it.

After a chunk, or in a channel shuffle, a convolution reads some channels of a value and not the
others. If the last channels were low it would read nothing but low or nothing but high ones; a
convolution costs least, and keeps most, at the same share on every side. So every part that is
read differently gets its share of the low channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octify.layout.channels import DENSE, Ids, Layout


def portions(layout: Layout, cells: Sequence[Sequence[Ids]]) -> dict[int, list[Ids]]:
    """Parts of cells that convolutions read differently, by a cell's first channel.

    Cells of one part are left out. The parts are ordered by who reads them, in order of execution.
    """
    flat = [cell for parts in cells for cell in parts]
    cell_of = np.full(layout.classes, DENSE)
    for index, cell in enumerate(flat):
        cell_of[cell] = index
    lengths = np.array([len(cell) for cell in flat])
    readers: dict[int, list[Ids]] = {}
    for conv in layout.convs:
        read = np.unique(conv.ids_in[conv.ids_in != DENSE])
        own = cell_of[read][cell_of[read] != DENSE]  # padded channels are of no cell
        counts = np.bincount(own, minlength=len(flat))
        for number in np.flatnonzero((counts > 0) & (counts < lengths)):
            readers.setdefault(int(number), []).append(read)
    return {int(flat[number][0]): _parted(flat[number], marks) for number, marks in readers.items()}


def _parted(cell: Ids, readers: Sequence[Ids]) -> list[Ids]:
    """Group a cell's channels by the ``readers`` that read them."""
    marks = np.stack([np.isin(cell, read) for read in readers])
    order = np.lexsort((cell, *marks[::-1]))
    ends = np.flatnonzero((marks[:, order][:, 1:] != marks[:, order][:, :-1]).any(axis=0)) + 1
    return np.split(cell[order], ends)


def low_channels(parts: Sequence[Ids], count: int) -> Ids:
    """Select ``count`` channels: the last ones of every part, in proportion to its size."""
    ends = np.cumsum([len(part) for part in parts])
    upto = np.floor(ends * count / ends[-1] + 0.5).astype(np.int64)
    each = np.diff(upto, prepend=0)
    return np.concatenate([part[len(part) - n :] for part, n in zip(parts, each, strict=True)])

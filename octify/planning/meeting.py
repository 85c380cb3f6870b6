"""Meeting of high and low channels: choice of the 1x1 convolutions that may leave out their exchange.

``exchange = "spatial"`` counts on the convolutions between: in a bottleneck the 3x3 convolution exchanges for
the two 1x1 convolutions around it. In an inverted residual the only spatial convolution is depthwise,
which computes each channel from itself: without the exchange of the 1x1 convolutions, high and low channels
would be two networks that never meet. Such convolutions keep their exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

APART = 'exchange is "full": high and low channels would not meet between convolutions that exchange'


@dataclass(frozen=True)
class Link:
    """A convolution between coupled sets that have low channels; not a depthwise one, nor one of vectors.

    into, out:
        The sets that it reads and writes; none on a side that is dense.
    apart:
        Whether it is to leave out its exchange.
    """

    path: str
    into: frozenset[int]
    out: frozenset[int]
    apart: bool

    @property
    def exchanges(self) -> bool:
        """Return whether high and low channels meet in the convolution, between octave values."""
        return bool(self.into and self.out) and not self.apart


def never_meeting(links: Sequence[Link]) -> set[str]:
    """Paths of the links that must not leave out their exchange.

    One may where a convolution that exchanges writes what it reads or reads what it writes; where
    it stands alone between convolutions of a dense input and of a dense output, which join high and low; or
    where another way from what it reads, back to that or on to what it writes (a shortcut), exchanges.
    """
    readers, writers = _by_set(links, "into"), _by_set(links, "out")
    return {link.path for link in links if link.apart and not _may(link, readers, writers)}


def _by_set(links: Iterable[Link], side: str) -> Mapping[int, list[Link]]:
    by_set: dict[int, list[Link]] = {}
    for link in links:
        for s in getattr(link, side):
            by_set.setdefault(s, []).append(link)
    return by_set


def _may(link: Link, readers: Mapping[int, list[Link]], writers: Mapping[int, list[Link]]) -> bool:
    behind = [each for s in link.out for each in readers.get(s, ())]
    before = [each for s in link.into for each in writers.get(s, ())]
    if any(each.exchanges for each in (*behind, *before)):
        return True
    if behind and before and not any(each.out for each in behind) and not any(each.into for each in before):
        return True
    return _on_another_way(link, readers)


def _on_another_way(link: Link, readers: Mapping[int, list[Link]]) -> bool:
    """Return whether a path around ``link``, from its input back or to its output, exchanges."""
    waiting = [(s, False) for s in sorted(link.into)]
    seen = set(waiting)
    while waiting:
        s, met = waiting.pop()
        if met and (s in link.out or s in link.into):
            return True
        for each in readers.get(s, ()):
            if each.path == link.path:
                continue
            for state in ((t, met or each.exchanges) for t in each.out):
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return False

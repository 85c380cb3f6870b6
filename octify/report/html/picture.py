"""A conversion as one picture (SVG): every convolution's map before and after, and what it multiplies.

The width of a block grows with the root of its channels, its height with the root of its size; low channels
are drawn at half the height of the high ones. Bars below are MACs, to one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octify.report.html.numbers import multiplications
from octify.report.html.tags import Markup, tag
from octify.report.model import ReportData
from octify.report.rows import LayerRow

_WIDTH, _LEFT, _RIGHT = 900.0, 84.0, 150.0
_BLOCKS, _BARS, _GAP, _TOP = 84.0, 64.0, 26.0, 44.0
_STYLE = """
svg { --paper: #ffffff; --ink: #1b1f24; --soft: #505a66; --before: #9aa3ad; --high: #0f62c4; --low: #c2570c; }
@media (prefers-color-scheme: dark) {
  svg {
    --paper: #14171a; --ink: #e6e9ec; --soft: #a9b2bc; --before: #67717c; --high: #6aa9ff; --low: #ff9f57;
  }
}
.paper { fill: var(--paper); }
.before { fill: var(--before); } .high { fill: var(--high); } .low { fill: var(--low); }
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.soft { fill: var(--soft); } .large { font-size: 22px; font-weight: 600; } .title { font-weight: 600; }
"""


@dataclass(frozen=True)
class _Block:
    """A convolution's place: its left end, its width and the height of its map, in pixels."""

    row: LayerRow
    x: float
    width: float
    height: float


def picture(report: ReportData) -> str:
    """Draw the convolutions of ``report`` before and after as an SVG file."""
    blocks = _placed([row for row in report.layers if row.output_size])
    totals = report.totals
    lines = [_TOP, _TOP + _BLOCKS + _GAP, _TOP + 2 * (_BLOCKS + _GAP)]
    height = lines[2] + _BARS + 20
    label = (
        f"{report.model}: {multiplications(totals.macs_before)} MACs before, "
        f"{multiplications(totals.macs_after)} after; "
        f"{totals.converted} of {totals.convolutions} convolutions are octave"
    )
    return str(
        tag(
            "svg",
            tag("style", Markup(_STYLE)),
            tag("rect", width="100%", height="100%", class_="paper"),
            _heading(report),
            _named(lines, ("before", "after", "MACs by layer")),
            [_before(block, lines[0]) for block in blocks],
            [_after(block, lines[1]) for block in blocks],
            _bars(blocks, lines[2]),
            _results(report, lines),
            xmlns="http://www.w3.org/2000/svg",
            role="img",
            aria_label=label,
            viewBox=f"0 0 {_WIDTH:.0f} {height:.0f}",
        )
        + "\n"
    )


def _placed(rows: Sequence[LayerRow]) -> list[_Block]:
    """Blocks side by side, in the order of the layers."""
    room = _WIDTH - _LEFT - _RIGHT
    breadths = [row.out_channels**0.5 for row in rows]
    largest = max((max(row.output_size) for row in rows), default=1)
    gap = min(3.0, room / (4 * max(len(rows), 1)))
    scale = (room - gap * len(rows)) / sum(breadths) if rows else 0.0
    blocks, x = [], _LEFT
    for row, breadth in zip(rows, breadths, strict=True):
        share = (max(row.output_size) / largest) ** 0.5
        blocks.append(_Block(row, x, breadth * scale, max(_BLOCKS * share, 4.0)))
        x += breadth * scale + gap
    return blocks


def _heading(report: ReportData) -> list[Markup]:
    keys = (("high", "full resolution"), ("low", "half resolution"), ("before", "before"))
    entries: list[Markup] = [_text(_LEFT, 22, report.model, "title")]
    x = _WIDTH - _RIGHT - 330
    for kind, text in keys:
        entries += [_rect(x, 12, 12, 12, kind), _text(x + 18, 22, text, "soft")]
        x += 120
    return entries


def _named(lines: Sequence[float], names: Sequence[str]) -> list[Markup]:
    heights = (_BLOCKS, _BLOCKS, _BARS)
    named = zip(lines, heights, names, strict=True)
    return [
        _text(10, top + height, word, "soft") if number == 0 else _text(10, top + height - 15, word, "soft")
        for top, height, name in named
        for number, word in enumerate(reversed(name.split(" ", 1)))
    ]


def _before(block: _Block, top: float) -> Markup:
    return tag(
        "g",
        tag("title", _described(block.row)),
        _rect(block.x, top + _BLOCKS - block.height, block.width, block.height, "before"),
    )


def _after(block: _Block, top: float) -> Markup:
    bottom, low = top + _BLOCKS, block.width * block.row.alpha_out
    parts = [tag("title", _described(block.row))]
    if low < block.width:
        parts.append(_rect(block.x, bottom - block.height, block.width - low, block.height, "high"))
    if low > 0:
        half = block.height / 2
        parts.append(_rect(block.x + block.width - low, bottom - half, low, half, "low"))
    return tag("g", parts)


def _bars(blocks: Sequence[_Block], top: float) -> list[Markup]:
    most = max((max(block.row.macs_before, block.row.macs_after) for block in blocks), default=1) or 1
    bars = []
    for block in blocks:
        half = block.width / 2
        places = ((block.x, block.row.macs_before, "before"), (block.x + half, block.row.macs_after, "high"))
        for x, macs, kind in places:
            height = _BARS * macs / most
            bars.append(_rect(x, top + _BARS - height, half, height, kind))
    return bars


def _results(report: ReportData, lines: Sequence[float]) -> list[Markup]:
    x, totals = _WIDTH - _RIGHT + 12, report.totals
    ratio = totals.macs_after / totals.macs_before if totals.macs_before else 1.0
    convolutions = f"{totals.converted} of {totals.convolutions} octave"
    return [
        _text(x, lines[0] + _BLOCKS - 20, multiplications(totals.macs_before), "large"),
        _text(x, lines[0] + _BLOCKS, "MACs", "soft"),
        _text(x, lines[1] + _BLOCKS - 20, multiplications(totals.macs_after), "large"),
        _text(x, lines[1] + _BLOCKS, f"MACs, {ratio:.0%}", "soft"),
        _text(x, lines[2] + _BARS - 16, "convolutions:", "soft"),
        _text(x, lines[2] + _BARS, convolutions, "soft"),
    ]


def _described(row: LayerRow) -> str:
    macs = f"{multiplications(row.macs_before)} to {multiplications(row.macs_after)} MACs"
    return f"{row.path}: {row.out_channels} channels, {row.alpha_out:.0%} low; {macs}"


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", class_=kind)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return tag("text", text, x=f"{x:.0f}", y=f"{y:.0f}", class_=kind)

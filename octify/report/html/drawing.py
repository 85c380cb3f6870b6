"""Drawing of the network as inline SVG: boxes for operations, pills for splits and merges, wide lines."""

from __future__ import annotations

from collections.abc import Mapping

from octify.report.html.boxes import Box, boxes
from octify.report.html.layered import Drawing, Slot, layered
from octify.report.html.numbers import kind_of, sizes
from octify.report.html.tags import Markup, scroll_box, tag
from octify.report.model import ReportData
from octify.report.rows import GraphNode

_WIDTH, _HEIGHT, _STEP, _MARGIN = 250.0, 58.0, 92.0, 12.0
_PILL = 76.0
_CHARACTERS, _SMALL = 30, 37  # characters that fit into a box, in bold and in small letters


def network(report: ReportData) -> Markup:
    """Draw the network in a scroll box, with its legend."""
    shown = boxes(report)
    placed = layered({box.name: box.inputs for box in shown}, _WIDTH)
    by_name = {box.name: box for box in shown}
    width, height = placed.width + 2 * _MARGIN, (placed.ranks - 1) * _STEP + _HEIGHT + 2 * _MARGIN
    kinds = [box.kind for box in shown]
    label = (
        f"{report.model} as a graph of {len(shown)} boxes from the input at the top to the output at the "
        f"bottom, with {kinds.count('split')} splits and {kinds.count('merge')} merges"
    )
    svg = tag(
        "svg",
        _lines(placed, by_name),
        [
            _box(box, placed.x[box.name, placed.rank[box.name]] + _MARGIN, _top(placed.rank[box.name]))
            for box in shown
        ],
        role="img",
        aria_label=label,
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
    )
    return tag("div", _legend(), scroll_box(label, svg, class_="scroll network"))


def _legend() -> Markup:
    entries = (
        ("swatch octave", "octave: the bar shows its high (blue) and low (orange) share of channels"),
        ("swatch dense", "dense: every channel at full resolution"),
        ("swatch split", "split: low channels are made from a dense value"),
        ("swatch merge", "merge: low channels are brought back to full resolution"),
        ("swatch wide", "wide line: an octave value"),
    )
    return tag("ul", [tag("li", tag("span", class_=kind), text) for kind, text in entries], class_="legend")


def _top(rank: int) -> float:
    return _MARGIN + rank * _STEP


def _lines(placed: Drawing, by_name: Mapping[str, Box]) -> list[Markup]:
    """Draw one path for each value: its lane and the branches from it."""
    pieces: dict[str, list[str]] = {}
    for a, b in placed.edges:
        pieces.setdefault(a[0], []).append(_piece(placed, by_name, a, b))
    paths = []
    for name, parts in pieces.items():
        box = by_name[name]
        octave = box.last.low_channels > 0 or box.kind == "split"
        paths.append(tag("path", d="".join(parts), class_="wire octave" if octave else "wire"))
    return paths


def _piece(placed: Drawing, by_name: Mapping[str, Box], a: Slot, b: Slot) -> str:
    """Path from a slot to one on the next rank, continued through that one if it is a lane."""
    x0, x1 = placed.x[a] + _MARGIN, placed.x[b] + _MARGIN
    start, end = _top(a[1]) + _inset(placed, by_name, a, below=True), _top(b[1])
    lane = placed.rank[b[0]] != b[1]
    end += 0.0 if lane else _inset(placed, by_name, b, below=False)
    middle = (start + end) / 2
    curve = f"M{x0:.0f} {start:.0f}" + (
        f"V{end:.0f}"
        if round(x0) == round(x1)
        else f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {end:.0f}"
    )
    return curve + (f"V{_top(b[1]) + _HEIGHT:.0f}" if lane else "")


def _inset(placed: Drawing, by_name: Mapping[str, Box], slot: Slot, *, below: bool) -> float:
    """Distance from the top of a rank to where one of its slots begins, or ends."""
    pill = placed.rank[slot[0]] == slot[1] and by_name[slot[0]].kind in ("split", "merge")
    inset = 16.0 if pill else 0.0
    return _HEIGHT - inset if below else inset


def _box(box: Box, x: float, y: float) -> Markup:
    if box.kind in ("split", "merge"):
        return _pill(box, x, y)
    low, channels = box.last.low_channels, _channels(box)
    share = low / channels if channels else 0.0
    left = x - _WIDTH / 2
    parts = [
        tag("title", "\n".join(_describe(box))),
        _rect(left, y, _WIDTH, _HEIGHT, rx=5),
        _text(left + 9, y + 17, _cut(_heading(box)), "name"),
        _text(left + 9, y + 32, _operations(box), "facts"),
        _text(left + 9, y + 46, _value(box), "facts"),
    ]
    if low:
        bar = _WIDTH - 10
        parts.append(_rect(left + 5, y + _HEIGHT - 6, bar * (1 - share), 3, class_="high"))
        parts.append(_rect(left + 5 + bar * (1 - share), y + _HEIGHT - 6, bar * share, 3, class_="low"))
    converted = bool(low or (box.layer and (box.layer.alpha_in or box.layer.alpha_out)))
    return tag("g", parts, class_=f"box {'octave' if converted else 'dense'}")


def _pill(box: Box, x: float, y: float) -> Markup:
    node = box.nodes[0]
    return tag(
        "g",
        tag("title", f"{box.kind} of {sizes(node.shape[1:])} values: {node.reason or ''}"),
        _rect(x - _PILL / 2, y + 16, _PILL, _HEIGHT - 32, rx=12),
        tag(
            "text",
            box.kind,
            x=f"{x:.0f}",
            y=f"{y + _HEIGHT / 2 + 4:.0f}",
            text_anchor="middle",
            class_="name",
        ),
        class_=f"box {box.kind}",
    )


def _rect(x: float, y: float, width: float, height: float, **attributes: object) -> Markup:
    return tag("rect", x=f"{x:.0f}", y=f"{y:.0f}", width=f"{width:.0f}", height=f"{height:.0f}", **attributes)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return tag("text", text, x=f"{x:.0f}", y=f"{y:.0f}", class_=kind)


def _channels(box: Box) -> int:
    return box.last.shape[1] if len(box.last.shape) > 1 else 0


def _heading(box: Box) -> str:
    first = box.nodes[0]
    if box.kind == "operation":
        return first.path or first.operation
    return f"input {first.name}" if box.kind == "input" else box.kind


def _operations(box: Box) -> str:
    """Names of the box's operations, in order."""
    first, *others = box.nodes
    kernel = box.layer is not None and f"{kind_of(box.layer.kind)} {sizes(box.layer.kernel)}"
    own = kernel if box.layer is not None and box.layer.kernel else first.operation if first.path else ""
    shown = " + ".join([own or "", *(_leaf(node) for node in others)]).strip()
    return shown if len(shown) <= _SMALL else f"{shown[: _SMALL - 1]}\N{HORIZONTAL ELLIPSIS}"


def _leaf(node: GraphNode) -> str:
    """Last part of a module's path, or the module's class where that part is a number."""
    name = node.path.rpartition(".")[2]
    return node.operation if not name or name.isdigit() else name


def _value(box: Box) -> str:
    shape = box.last.shape
    parts = [sizes(shape[1:])] if len(shape) > 1 else []
    parts += [f"{box.last.low_channels} of {_channels(box)} channels low"] if box.last.low_channels else []
    return ", ".join(parts)


def _describe(box: Box) -> list[str]:
    """Tooltip of a box, with all its facts."""
    lines = [f"{node.path or node.name}: {node.operation}" for node in box.nodes]
    if box.last.shape:
        lines.append(f"output {sizes(box.last.shape)}")
    if box.last.low_channels:
        lines.append(f"{box.last.low_channels} of {_channels(box)} channels at half resolution")
    if box.layer is not None:
        lines.append(
            f"{box.layer.macs_before / 1e6:.2f} MMACs before, {box.layer.macs_after / 1e6:.2f} after"
        )
    return lines


def _cut(path: str) -> str:
    """Shorten a path from the left until it fits: the last parts distinguish layers."""
    if len(path) <= _CHARACTERS:
        return path
    parts = path.split(".")
    while len(parts) > 1 and len(".".join(parts)) >= _CHARACTERS:
        del parts[0]
    return f"\N{HORIZONTAL ELLIPSIS}{'.'.join(parts)[1 - _CHARACTERS :]}"

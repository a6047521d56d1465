"""The network as an SVG drawing; colours come from the page."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from onnxcompress.report import format as fmt
from onnxcompress.report.network.layout import BOX_HEIGHT, BOX_WIDTH, Line, placed
from onnxcompress.report.tree import Box, Network

PAGE_WIDTH = 1008.0
TITLE_LENGTH, LINE_LENGTH = 19, 21
"""Characters that fit in a box."""


def network(plot: Network) -> str:
    """Draw the boxes in columns from top to bottom, and the edges behind them."""
    layout = placed([box.reads for box in plot.boxes], PAGE_WIDTH)
    width, height = _n(layout.width), _n(layout.height)
    body = [f'<path class="edge" d="{"".join(_path(line) for line in layout.lines)}"/>']
    body += [_box(box, x, y) for box, (x, y) in zip(plot.boxes, layout.boxes, strict=True)]
    label = fmt.printable(plot.alt)
    return (
        f'<svg class="network" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f"aria-label={quoteattr(label)}><desc>{escape(label)}</desc>{''.join(body)}</svg>"
    )


def _box(box: Box, x: float, y: float) -> str:
    """Draw a box: its stripes, in each the part that is kept in a stronger tone, and two lines of text."""
    css = "box end" if box.end else "box"
    told = "\n".join(fmt.printable(line) for line in box.told)
    parts = [f"<title>{escape(told)}</title>"]
    each = BOX_WIDTH / max(1, len(box.bands))
    for i, band in enumerate(() if box.end else box.bands):
        tone = "none" if band.hue is None else f"g{band.hue}"
        left, kept = x + i * each, each * min(1.0, max(0.0, band.kept))
        if kept < each:
            parts.append(_rect(f"{tone} gone", left, y, each))
        if kept:
            parts.append(_rect(tone, left, y, kept))
    corner = BOX_HEIGHT / 2 if box.end else 3
    parts.append(
        f'<rect class="rim" x="{_n(x)}" y="{_n(y)}" width="{_n(BOX_WIDTH)}" height="{_n(BOX_HEIGHT)}" '
        f'rx="{_n(corner)}"/>'
    )
    middle = x + BOX_WIDTH / 2
    rise = 14 if box.line else 20.5
    parts.append(_text(middle, y + rise, fmt.shortened(fmt.printable(box.title), TITLE_LENGTH), "name"))
    if box.line:
        parts.append(_text(middle, y + 27, fmt.shortened(fmt.printable(box.line), LINE_LENGTH)))
    return f'<g class="{css}">{"".join(parts)}</g>'


def _rect(css: str, x: float, y: float, width: float) -> str:
    return (
        f'<rect class="{css}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(BOX_HEIGHT)}" rx="3"/>'
    )


def _text(x: float, y: float, text: str, css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{kind}>{escape(text)}</text>'


def _path(line: Line) -> str:
    (x, y), *rest = line.points
    if line.corners:
        return f"M{_n(x)} {_n(y)}" + "".join(f"L{_n(a)} {_n(b)}" for a, b in rest)
    ((a, b),) = rest
    if abs(a - x) < 0.5:
        return f"M{_n(x)} {_n(y)}V{_n(b)}"
    bend = (y + b) / 2
    return f"M{_n(x)} {_n(y)}C{_points(((x, bend), (a, bend), (a, b)))}"


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

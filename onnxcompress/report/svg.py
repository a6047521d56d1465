"""Plots as small SVG drawings; colours come from the page, so dark mode and print work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from onnxcompress.report import format as fmt
from onnxcompress.report.tree import Bars, Distribution, Distributions, Lines, Panel

WIDTH = 380
MOST_MARKS, MOST_DOTS, MOST_POINTS = 256, 160, 400
"""More cannot be told apart at this width; lines are thinned evenly, ends kept."""

LETTER = 6.3
"""Width of a letter, on average."""

Scale = Callable[[float], float]


def histogram(panel: Panel) -> str:
    """Draw one weight's histogram with its codebook's values as lines from top to bottom."""
    width, height, left, right, floor = 260, 118, 4, 256, 96
    edges, counts = np.asarray(panel.edges, float), np.asarray(panel.counts, float)
    x = _linear(edges[0], edges[-1], left, right)
    y = _linear(0, float(counts.max()) or 1.0, floor, 10)
    path = [f"M{_n(x(edges[0]))} {floor}"]
    for low, high, amount in zip(edges[:-1], edges[1:], counts, strict=True):
        path.append(f"V{_n(y(amount))}" if low == edges[0] else f"L{_n(x(low))} {_n(y(amount))}")
        path.append(f"H{_n(x(high))}")
    body = [f'<path class="fill" d="{"".join(path)}V{floor}Z"/>']
    inside = sorted({round(x(m), 1) for m in panel.marks if edges[0] <= m <= edges[-1]})
    if inside:
        step = -(-len(inside) // MOST_MARKS)
        lines = "".join(f"M{_n(m)} 4V{floor}" for m in inside[::step])
        body.append(f'<path class="mark{" many" if len(inside) > 16 else ""}" d="{lines}"/>')
    body.append(f'<path class="axis" d="M{left} {floor}H{right}"/>')
    for tick in ticks(float(edges[0]), float(edges[-1]), 4):
        near = "start" if x(tick) < left + 14 else "end" if x(tick) > right - 14 else "middle"
        body.append(_text(x(tick), floor + 15, _tick(tick), near))
    told = f"Histogram of {panel.title}, {_tick(float(edges[0]))} to {_tick(float(edges[-1]))}"
    if panel.marks:
        told += f", {fmt.plural(len(set(panel.marks)), 'codebook value')}"
    return _svg(width, height, told, body)


def lines(plot: Lines) -> str:
    """Draw a line chart with its legend above."""
    left, right = 46, WIDTH - 12
    legend, below = _legend([series.name for series in plot.series], left, right)
    top = 18 + below
    floor, height = top + 166, top + 206
    xs = [p[0] for s in plot.series for p in s.points]
    ys = [p[1] for s in plot.series for p in s.points]
    x, x_ticks = _axis(xs, plot.x_log, left, right, 5)
    y, y_ticks = _axis(ys, plot.y_log, floor, top, 4)
    body = []
    for tick in y_ticks:
        body.append(f'<path class="grid-line" d="M{left} {_n(y(tick))}H{right}"/>')
        body.append(_text(left - 6, y(tick) + 4, _tick(tick), "end"))
    for tick in x_ticks:
        body.append(f'<path class="axis" d="M{_n(x(tick))} {floor}v4"/>')
        body.append(_text(x(tick), floor + 17, _tick(tick), "middle"))
    body.append(f'<path class="axis" d="M{left} {floor}H{right}"/>')
    body.append(_text((left + right) / 2, height - 4, plot.x_label, "middle", "label"))
    for index, series in enumerate(plot.series):
        kept = _thinned(series.points, MOST_POINTS)
        path = "M" + "L".join(f"{_n(x(a))} {_n(y(b))}" for a, b in kept)
        name = f"s{index % 4} d{index // 4 % 3}"  # what shares a colour differs in its dashes
        body.append(f'<path class="line {name}" d="{path}"/>')
        if len(kept) <= 40:
            dots = "".join(f"M{_n(x(a))} {_n(y(b))}h0" for a, b in kept)
            body.append(f'<path class="dot {name}" d="{dots}"/>')
        begin, line, told = legend[index]
        body.append(f'<path class="line {name}" d="M{_n(begin)} {_n(line - 4)}h16"/>')
        body.append(_text(begin + 21, line, told))
    return _svg(WIDTH, height, plot.alt, body)


def _legend(names: Sequence[str], left: float, right: float) -> tuple[list[tuple[float, float, str]], float]:
    """Return where each name of a legend begins and how it is told, in rows that fit, and where these end."""
    found: list[tuple[float, float, str]] = []
    begin, line = left, 16.0
    for told in fmt.all_shortened(names, int((right - left - 21) / LETTER)):
        length = 21 + LETTER * len(told)
        if found and begin + length > right:
            begin, line = left, line + 17
        found.append((begin, line, told))
        begin += length + 16
    return found, line - 4


def distributions(plot: Distributions) -> str:
    """Draw one row a model: a box from quartile to quartile, whiskers at 5 % and 95 %, a dot each sample."""
    row, left, right = 62, 1, WIDTH - 14
    pooled = np.concatenate([np.asarray(d.samples, float) for d in plot.distributions])
    low, high = float(np.quantile(pooled, 0.002)), float(np.quantile(pooled, 0.985))
    spread = (high - low) or max(abs(low), 1e-9)
    low, high = max(0.0, low - 0.06 * spread), high + 0.08 * spread
    x = _linear(low, high, left, right)
    floor = row * len(plot.distributions) + 4
    body = []
    for tick in ticks(low, high, 5):
        body.append(f'<path class="grid-line" d="M{_n(x(tick))} 4V{floor}"/>')
        body.append(_text(x(tick), floor + 16, _tick(tick), "middle"))
    for index, distribution in enumerate(plot.distributions):
        body += _box(distribution, x, (low, high), index, row * index)
    body.append(f'<path class="axis" d="M{left} {floor}H{right}"/>')
    body.append(_text(right, floor + 34, plot.unit, "end", "label"))
    return _svg(WIDTH, floor + 40, plot.alt, body)


def _box(
    distribution: Distribution, x: Scale, limits: tuple[float, float], row: int, top: float
) -> list[str]:
    name, rng = f"s{row % 4}", np.random.default_rng(row)
    samples = np.asarray(distribution.samples, float)
    inside = samples[(samples >= limits[0]) & (samples <= limits[1])]
    beyond = len(samples) - len(inside)
    if len(inside) > MOST_DOTS:
        inside = rng.choice(inside, MOST_DOTS, replace=False)
    jitter = rng.uniform(-9, 9, len(inside))
    middle = top + 42
    dots = "".join(f"M{_n(x(s))} {_n(middle + j)}h0" for s, j in zip(inside, jitter, strict=True))
    p5, p25, p50, p75, p95 = (
        float(np.clip(q, *limits)) for q in np.quantile(samples, (0.05, 0.25, 0.5, 0.75, 0.95))
    )
    label = fmt.shortened(distribution.name, 44) + (
        f" ({beyond} slower or faster, not shown)" if beyond else ""
    )
    whiskers = f"M{_n(x(p5))} {middle}H{_n(x(p25))}M{_n(x(p75))} {middle}H{_n(x(p95))}"
    box = f"M{_n(x(p25))} {middle - 9}H{_n(x(p75))}v18H{_n(x(p25))}Z"
    return [
        _text(1, top + 22, label),
        f'<path class="strip {name}" d="{dots}"/>',
        f'<path class="box {name}" d="{whiskers}{box}"/>',
        f'<path class="median {name}" d="M{_n(x(p50))} {middle - 12}v24"/>',
    ]


def bars(plot: Bars) -> str:
    """Draw horizontal bars from zero, each with its name above and its number at the end."""
    row, left, right = 38, 1, WIDTH - 76
    longest = max((b.length for b in plot.bars), default=0) or 1
    body = []
    names = fmt.all_shortened([bar.name for bar in plot.bars], 52)
    for index, (bar, name) in enumerate(zip(plot.bars, names, strict=True)):
        top = row * index
        hue = f"bar s{index // 2 % 4}{' pale' if index % 2 else ''}"
        length = max(1.5, bar.length / longest * (right - left))
        body.append(_text(left, top + 14, name))
        body.append(f'<path class="{hue}" d="M{left} {top + 19}h{_n(length)}v12H{left}Z"/>')
        body.append(_text(left + length + 6, top + 29, bar.value.text, None, "number"))
    return _svg(WIDTH, row * len(plot.bars) + 2, plot.alt, body)


def spark(heights: Sequence[float], alt: str) -> str:
    """Draw a histogram that fits in a line of text."""
    path = "".join(f"M{4 * i + 2} 18V{_n(17 - 16 * min(1.0, max(0.0, h)))}" for i, h in enumerate(heights))
    return (
        f'<svg class="spark" viewBox="0 0 {4 * len(heights)} 18" width="{4 * len(heights)}" height="18" '
        f'role="img" aria-label={quoteattr(fmt.printable(alt))}><path d="{path}"/></svg>'
    )


def meter(fraction: float, alt: str) -> str:
    """Draw a fraction as a bar that fits in a line of text."""
    length = 72 * min(1.0, max(0.0, fraction))
    return (
        '<svg class="meter" viewBox="0 0 72 10" width="72" height="10" role="img" '
        f'aria-label={quoteattr(fmt.printable(alt))}><path class="whole" d="M0 0H72V10H0Z"/>'
        f'<path class="part" d="M0 0H{_n(length)}V10H0Z"/></svg>'
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return about ``most`` round numbers from ``low`` to ``high``, 1, 2 or 5 times 10ⁿ apart."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = list(range(first, last + 1))
    if len(powers) >= 2:
        return [10.0**p for p in powers[:: -(-len(powers) // most)]]
    within = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5)]
    return [t for t in within if low * 0.999 <= t <= high * 1.001] or [low]


def _axis(
    values: Sequence[float], log: bool, start: float, end: float, most: int
) -> tuple[Scale, list[float]]:
    low, high = min(values), max(values)
    if log:
        scale = _linear(math.log10(low), math.log10(high), start, end)
        return lambda v: scale(math.log10(v)), _log_ticks(low, high, most)
    pad = 0.0 if start < end else 0.05 * (high - low)
    low, high = low - pad if low - pad > 0 or low < 0 else min(low, 0.0), high + pad
    return _linear(low, high, start, end), ticks(low, high, most)


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = high - low
    return (lambda v: start + (v - low) / span * (end - start)) if span else (lambda v: (start + end) / 2)


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) <= most:
        return list(points)
    picked = np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))
    return [points[int(i)] for i in picked]


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return (
            f"{value:,.4g}".replace("-", "−")
            if abs(value) < 1e4
            else f"{value / 1000:,.4g}k".replace("-", "−")
        )
    text = fmt.digits(value, 1)
    return text.replace("1·10", "10") if text.startswith(("1·10", "−1·10")) else text


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str | None = None, css: str | None = None) -> str:
    middle = f' text-anchor="{anchor}"' if anchor else ""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{_n(x)}" y="{_n(y)}"{middle}{kind}>{escape(fmt.printable(text))}</text>'


def _svg(width: float, height: float, alt: str, body: Sequence[str]) -> str:
    label = quoteattr(fmt.printable(alt))
    return f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label={label}>{"".join(body)}</svg>'

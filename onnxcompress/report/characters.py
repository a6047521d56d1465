"""Small drawings of block characters, for where there is only text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxcompress.report import format as fmt
from onnxcompress.report.tree import Lines

BLOCKS = "▁▂▃▄▅▆▇█"


def spark(heights: Sequence[float]) -> str:
    """Return a row of bars, heights from 0 to 1."""
    return "".join(BLOCKS[min(7, max(0, round(h * 7)))] for h in heights)


def meter(fraction: float) -> str:
    """Return ten characters, as many of them filled as the fraction says.

    >>> meter(0.5)
    '█████░░░░░'
    """
    filled = min(10, max(0, round(10 * fraction)))
    return "█" * filled + "░" * (10 - filled)


def trend(values: Sequence[float], width: int = 24) -> str:
    """Return a row of bars for values in order, at most ``width`` of them."""
    kept = values[:: max(1, -(-len(values) // width))]
    low, high = min(kept), max(kept)
    return spark([(v - low) / (high - low) if high > low else 0.5 for v in kept])


def trends(plot: Lines) -> Iterator[tuple[str, str, str]]:
    """Yield for each line of a plot its name, its trend, and its first and last value."""
    for series in plot.series:
        values = [y for _, y in series.points]
        name = f"{plot.y_label}, {series.name}" if series.name != plot.y_label else series.name
        yield name, trend(values), f"{fmt.number(values[0]).text} → {fmt.number(values[-1]).text}"

"""Drawings: what they show is where it belongs."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.report import svg
from onnxcompress.report.format import Quantity
from onnxcompress.report.tree import Bar, Bars, Distribution, Distributions, Lines, Panel, Series


def paths(drawing: str, css: str) -> list[str]:
    root = ElementTree.fromstring(drawing)
    return [p.get("d", "") for p in root.iter("path") if css in (p.get("class") or "").split()]


def test_histogram_draws_marks_at_their_place() -> None:
    panel = Panel("k", "W", (-1.0, 0.0, 1.0), (1, 3), (-1.0, 0.0, 1.0, 7.0))
    (marks,) = paths(svg.histogram(panel), "mark")
    xs = [float(x) for x in re.findall(r"M([\d.]+) ", marks)]
    assert xs == [4, 130, 256]


def test_histogram_of_many_marks_stays_small() -> None:
    edges = tuple(float(e) for e in np.linspace(-1, 1, 65))
    panel = Panel("k", "W", edges, (5,) * 64, tuple(float(m) for m in np.linspace(-1, 1, 100_000)))
    assert len(svg.histogram(panel)) < 8_000


def test_bars_are_as_long_as_their_numbers() -> None:
    bars = tuple(Bar(f"b{n}", n, Quantity(str(n))) for n in (100.0, 50.0, 0.0))
    drawn = paths(svg.bars(Bars("c", "a", bars)), "bar")
    lengths = [float(re.search(r"h([\d.]+)", d).group(1)) for d in drawn]  # type: ignore[union-attr]
    assert lengths[0] == pytest.approx(2 * lengths[1])
    assert lengths[2] < 2


def test_long_names_of_bars_stay_apart() -> None:
    names = [f"model.backbone.layers.{k}.block.convolution_with_a_long_name.weight" for k in range(30)]
    names += ["stem", "an_equally_long_name_of_something_else_that_lies_elsewhere"]
    drawing = svg.bars(Bars("c", "a", tuple(Bar(n, 1.0, Quantity("1")) for n in names)))
    told = re.findall(r"<text[^>]*>([^<]+)</text>", drawing)[::2]
    assert len(set(told)) == len(names)
    assert max(map(len, told)) <= 52
    files = ["a_model_with_a_very_long_name_that_goes_on_and_on_and_on.onnx", "b.onnx"]
    pairs = tuple(Bar(f"{n}{more}", 1.0, Quantity("1")) for n in files for more in ("", ", gzip"))
    assert svg.bars(Bars("c", "a", pairs)).count(">a_model_with") == 2


def test_lines_on_a_logarithmic_axis_are_straight_for_a_power() -> None:
    points = tuple((10.0**k, 10.0**-k) for k in range(5))
    (line, _) = paths(svg.lines(Lines("c", "a", "x", "y", (Series("s", points),), True, True)), "line")
    xy = np.array([[float(v) for v in pair.split()] for pair in line[1:].split("L")])
    assert np.allclose(np.diff(xy[:, 0]), np.diff(xy[:, 0])[0], atol=0.11)
    assert np.allclose(np.diff(xy[:, 1]), np.diff(xy[:, 1])[0], atol=0.11)


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = tuple((float(i), float(i)) for i in range(10_000))
    drawing = svg.lines(Lines("c", "a", "x", "y", (Series("s", points),)))
    assert len(drawing) < 12_000
    line = paths(drawing, "line")[0]
    assert line.startswith("M46 196")
    assert line.endswith("L368 30") or float(line.split()[-1]) < 45


@pytest.mark.parametrize("length", [1, 12, 30, 200])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_legend_stays_within_the_drawing_and_above_the_lines(count: int, length: int) -> None:
    series = tuple(Series(f"{k}{'n' * length}", ((0.0, 0.0), (1.0, 1.0))) for k in range(count))
    drawing = svg.lines(Lines("c", "a", "x", "y", series))
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">(\d+n[^<]*)</text>', drawing)
    assert len(names) == count
    placed = [(float(y), float(x), float(x) + svg.LETTER * len(told)) for x, y, told in names]
    assert all(end <= svg.WIDTH for _, _, end in placed)
    for (row, _, end), (next_row, begin, _) in itertools.pairwise(placed):
        assert (next_row == row and begin > end) or next_row >= row + 15
    tops = [float(v) for path in paths(drawing, "line")[::2] for v in re.findall(r" ([\d.]+)", path)]
    assert min(tops) >= placed[-1][0]
    styles = re.findall(r'class="line (s\d d\d)" d="M[\d.]+ [\d.]+L', drawing)
    assert len(set(styles)) == count, "no two lines look alike"


@pytest.mark.parametrize("samples", [(1.0, 1.0), (0.0, 0.0), (1.0, 1e6), (2.0, 1.0, 3.0)])
def test_distributions_draw_any_samples(samples: tuple[float, ...]) -> None:
    drawing = svg.distributions(Distributions("c", "a", "ms", (Distribution("m", samples),)))
    assert len(paths(drawing, "box")) == 1
    assert "nan" not in drawing


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_and_not_too_many(low: float, span: float, most: int) -> None:
    high = low + span
    if high <= low:
        return
    found = svg.ticks(low, high, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * span - 1e-9 <= t <= high + 1e-6 * span + 1e-9 for t in found)


def test_names_are_escaped() -> None:
    bars = Bars("c", '<a "b">', (Bar("<script>&", 1.0, Quantity("1")),))
    drawing = svg.bars(bars)
    assert "<script>" not in drawing
    ElementTree.fromstring(drawing)

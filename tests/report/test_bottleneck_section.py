"""What the report says of a bottleneck, in every format."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example import channels, compress

from onnxcompress.core.bottleneck import AlphaHistogram, Bottleneck, GoalReached, PathPoint
from onnxcompress.core.run import Run
from onnxcompress.report import html, markdown
from onnxcompress.report.sections import _channels
from onnxcompress.report.sections._base import SECTIONS
from onnxcompress.report.tree import Histograms, Lines, Paragraph


def gated(target: float | None = 0.5) -> Run:
    found = Bottleneck(
        threshold=1.2,
        log_alpha_edges=(-10.0, 0.0, 10.0),
        histograms=(AlphaHistogram("conv1.weight", 16, 4, (12, 4)), AlphaHistogram("fc", 100, 30, (70, 30))),
        path=tuple(
            PathPoint(float(k), 1e-3 * (1 + k), {"conv1.weight": 16 - 4 * k, "fc": 100 - 10 * k})
            for k in range(4)
        ),
        target=target,
        reached=None if target is None else 0.48,
        goals=()
        if target is None
        else (
            GoalReached("macs", target, 0.31),
            GoalReached("params", 0.25, 0.24),
            GoalReached("latency", 0.7, None),
        ),
    )
    run = compress()
    method = run.methods[0]
    assert method.training is not None
    return replace(
        run, methods=(replace(method, training=replace(method.training, bottleneck=found)), *run.methods[1:])
    )


def test_it_tells_what_stays_and_draws_path_and_histograms():
    blocks = SECTIONS["bottleneck"].build(gated())
    words = "".join(p for b in blocks if isinstance(b, Paragraph) for p in b.parts if isinstance(p, str))
    assert "34 of 116 gated channels stay" in words
    assert "come to that, and more where the target left room. The target" in words
    wanted = (
        "The target was at most 50.0 % of the multiply-accumulates, and 31.0 % stays; at most 25.0 % of the "
        "parameters, and 24.0 % stays; at most 70.0 % of the latency, which was not measured."
    )
    assert wanted in words.replace("\u202f", " ").replace("\u00a0", " ")
    shares = next(b for b in blocks if isinstance(b, Lines))
    assert shares.series[0].points[-1] == (3.0, 0.25)
    assert len([b for b in blocks if isinstance(b, Lines)]) == 2
    panels = next(b for b in blocks if isinstance(b, Histograms)).panels
    assert panels[0].counts == (12, 4)


def test_groups_that_are_not_drawn_are_told_of():
    run = gated()
    method = run.methods[0]
    found = method.training.bottleneck
    many = tuple(AlphaHistogram(f"g{k}", 10 + k, 4, (12, 4)) for k in range(30))
    path = tuple(replace(p, kept={h.group: h.size for h in many}) for p in found.path)
    training = replace(method.training, bottleneck=replace(found, histograms=many, path=path))
    blocks = SECTIONS["bottleneck"].build(replace(run, methods=(replace(method, training=training),)))
    drawn = [b for b in blocks if isinstance(b, (Lines, Histograms)) and "γ" not in b.caption]
    assert len(drawn) == 2
    assert all("the 12 largest of 30 groups" in b.caption for b in drawn)
    few = [b for b in SECTIONS["bottleneck"].build(run) if isinstance(b, (Lines, Histograms))]
    assert not any("largest" in b.caption for b in few)


def test_other_methods_have_no_such_section():
    assert not SECTIONS["bottleneck"].applies(compress())


@pytest.mark.parametrize("target", [0.5, None])
def test_it_renders_and_survives_json(target):
    run = gated(target)
    assert "Information bottleneck" in html.render(run)
    assert "Information bottleneck" in markdown.render(run)
    assert Run.from_json(run.to_json()) == run


def test_an_input_whose_gates_all_stayed_open_is_not_told_kept_for_another_reason():
    run = replace(gated(), channels=channels())
    assert "pixels" in [g.name for g in _channels.untouched(run)]  # no gates on it
    training = run.methods[0].training
    assert training is not None
    assert training.bottleneck is not None
    histograms = (*training.bottleneck.histograms, AlphaHistogram("pixels", 3, 3, (0, 3)))
    chosen = replace(training, bottleneck=replace(training.bottleneck, histograms=histograms))
    run = replace(run, methods=(replace(run.methods[0], training=chosen), *run.methods[1:]))
    assert [g.name for g in _channels.untouched(run)] == ["a.weight", "b.weight", "c.weight"]

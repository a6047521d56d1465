"""Bottleneck: how the channels thinned out while gates were trained, and the gap the threshold falls in."""

from __future__ import annotations

import math

from onnxcompress.core.bottleneck import AlphaHistogram, Bottleneck
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Histograms, Lines, Panel, Paragraph, Series

_QUANTITIES = {"macs": "multiply-accumulates", "params": "parameters", "elements": "feature maps' elements"}

MOST_PANELS = 12
"""Groups whose path and histogram are drawn, the largest ones."""


@section(
    "bottleneck",
    title="Information bottleneck",
    order=92,
    detail=True,
    applies=lambda run: any(m.training is not None and m.training.bottleneck for m in run.methods),
)
def bottleneck(run: Run) -> tuple[Block, ...]:
    """Show for each method with gates what they came to."""
    blocks: list[Block] = []
    for method in run.methods:
        found = method.training.bottleneck if method.training is not None else None
        if found is not None:
            blocks.append(Paragraph((f"{method.name}: ", _told(found))))
            blocks += [*_path(found), *_information(found), *_histograms(found)]
    return tuple(blocks)


def _told(b: Bottleneck) -> str:
    size, kept = sum(h.size for h in b.histograms), sum(h.kept for h in b.histograms)
    goals = [
        f"at most {fmt.percent(g.limit).text} of the {_QUANTITIES.get(g.quantity, g.quantity)}, "
        + ("which was not measured" if g.reached is None else f"and {fmt.percent(g.reached).text} stays")
        for g in b.goals
    ]
    target = f" The target was {'; '.join(goals)}." if goals else ""
    wider = ", and more where the target left room" if goals else ""
    if b.by == "taylor":
        return (
            f"{kept:,} of {size:,} gated channels stay. Training with gates was too short to rank them: what "
            f"a ranking before it keeps, by the Taylor importance, trained better in a trial.{target}"
        )
    return (
        f"{kept:,} of {size:,} gated channels stay, of each group those with the largest α = μ²/σ²: over "
        f"{fmt.number(b.threshold).text}, as near as the widths allowed come to that{wider}.{target}"
    )


def _shown(b: Bottleneck) -> list[AlphaHistogram]:
    largest = {h.group for h in sorted(b.histograms, key=lambda h: -h.size)[:MOST_PANELS]}
    return [h for h in b.histograms if h.group in largest]


def _named(b: Bottleneck) -> str:
    """Tell which groups are drawn."""
    count = len(b.histograms)
    return (
        fmt.plural(count, "group") if count <= MOST_PANELS else f"the {MOST_PANELS} largest of {count} groups"
    )


def _of_some(b: Bottleneck) -> str:
    return f"; {_named(b)}" if len(b.histograms) > MOST_PANELS else ""


def _path(b: Bottleneck) -> tuple[Block, ...]:
    if len(b.path) < 2:
        return ()
    lines = tuple(
        Series(h.group, tuple((p.epoch, p.kept.get(h.group, h.size) / h.size) for p in b.path))
        for h in _shown(b)
    )
    told = "; ".join(f"{s.name} down to {fmt.percent(s.points[-1][1]).text}" for s in lines)
    gammas = [p.gamma for p in b.path]
    steered = max(gammas) > 1.01 * min(gammas)
    charts = [
        Lines(
            f"Share of the channels over the threshold, along training{_of_some(b)}",
            f"Line chart of the share of channels along epochs: {told}.",
            "epoch",
            "share",
            lines,
        )
    ]
    if steered:
        low, high = fmt.number(min(gammas)).text, fmt.number(max(gammas)).text
        series = Series("γ", tuple((p.epoch, p.gamma) for p in b.path))
        alt = f"Line chart of γ along epochs, between {low} and {high}."
        charts.append(Lines("Strength γ of the bottleneck", alt, "epoch", "γ", (series,), y_log=True))
    return tuple(charts)


def _information(b: Bottleneck) -> tuple[Block, ...]:
    """Draw the paper's figure 2: what each layer's gates let through, along training."""
    lines = []
    for held in _shown(b):
        points = tuple((p.epoch, p.information[held.group]) for p in b.path if held.group in p.information)
        if len(points) > 1:
            lines.append(Series(held.group, points))
    if not lines:
        return ()
    told = "; ".join(
        f"{s.name} from {fmt.number(s.points[0][1]).text} to {fmt.number(s.points[-1][1]).text}"
        for s in lines
    )
    return (
        Lines(
            "Mutual information of each layer's channels before and after their gates (sum of estimates)"
            + _of_some(b),
            f"Line chart of nats along epochs: {told}.",
            "epoch",
            "nats",
            tuple(lines),
        ),
    )


def _histograms(b: Bottleneck) -> tuple[Block, ...]:
    mark = (math.log(b.threshold),) if b.threshold > 0 and b.by == "alpha" else ()
    panels = tuple(
        Panel(f"alpha-{k}", f"{h.group}: {h.kept} of {h.size}", b.log_alpha_edges, h.counts, mark)
        for k, h in enumerate(_shown(b))
    )
    if not panels:
        return ()
    title = f"log α of the channels of {_named(b)}" + ("; the mark is the threshold" if mark else "")
    return (Histograms(title, f"Histograms of {title}.", panels),)

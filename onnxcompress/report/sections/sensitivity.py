"""Sensitivity: layers ranked by how far compressing each alone moves the outputs."""

from __future__ import annotations

import math

from onnxcompress.core.run import Run
from onnxcompress.core.sensitivity import Sensitivity
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Bar, Bars, Block, Callout, Column, Mark, Name, Names, Paragraph, Table

SHOWN = 30
"""Bars of the plot; the table holds all layers."""

WIDTH = 20
"""Characters of the longest bar in a table."""


@section("sensitivity", title="Sensitivity", order=35, applies=lambda run: run.sensitivity is not None)
def sensitivity(run: Run) -> tuple[Block, ...]:
    """Show the layers, the most fragile first."""
    found = run.sensitivity
    assert found is not None
    return (*_advice(found), *_plot(found), _table(found), Paragraph((_how(found),)))


def _advice(found: Sensitivity) -> tuple[Block, ...]:
    fragile = tuple(layer.name for layer in found.layers if layer.fragile)
    if not fragile:
        return (Callout("note", "No layer stands out", ("None is clearly more fragile than the others.",)),)
    title = f"{fmt.plural(len(fragile), 'layer')} stand out" if len(fragile) > 1 else "1 layer stands out"
    return (Callout("warning", title, ("Compress the model without ", Names(fragile), ".")),)


def _plot(found: Sensitivity) -> tuple[Block, ...]:
    bars = tuple(
        Bar(layer.name, layer.relative_l2, fmt.percent(layer.relative_l2))
        for layer in found.layers[:SHOWN]
        if math.isfinite(layer.relative_l2)
    )
    if not bars:
        return ()
    first = "; ".join(f"{bar.name} {bar.value.text}" for bar in bars[:5])
    alt = f"Bars of the damage of each layer, the most fragile first: {first}."
    return (Bars("Change of the outputs when one layer alone is compressed", alt, bars),)


def _table(found: Sensitivity) -> Table:
    most = max((la.relative_l2 for la in found.layers if math.isfinite(la.relative_l2)), default=0.0) or 1.0
    columns = (
        Column("Layer"),
        Column("Damage", "relative_l2", numeric=True),
        Column("95 % interval", "interval", numeric=True),
        Column("Rank"),
        Column("Verdict"),
    )
    rows = tuple(
        (
            Name(layer.name),
            fmt.percent(layer.relative_l2),
            f"{fmt.percent(layer.low).text} to {fmt.percent(layer.high).text}",
            "▇" * max(1, round(WIDTH * min(1.0, layer.relative_l2 / most)))
            if math.isfinite(layer.relative_l2)
            else "no number",
            Mark(False, "fragile") if layer.fragile else "",
        )
        for layer in found.layers
    )
    return Table("Damage of each layer alone", columns, rows)


def _how(found: Sensitivity) -> str:
    told = f"Each layer compressed alone by {found.method}; change of the output that changes most (relative "
    told += f"l2), on {found.inputs}. A layer is called fragile above {fmt.percent(found.threshold).text}."
    if found.together is not None:
        told += f" All of them together: {fmt.percent(found.together).text}."
    return told

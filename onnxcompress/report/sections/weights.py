"""Weights: how each is stored, how far it moved, and its values against its codebook."""

from __future__ import annotations

from onnxcompress.core.run import Run, WeightFacts
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import (
    Block,
    Column,
    Histograms,
    Inline,
    Name,
    Names,
    Panel,
    Quantity,
    Spark,
    Table,
)

MOST_PANELS = 24
SPARK_BARS = 20


@section("weights", title="Weights", order=80, detail=True, applies=lambda run: bool(run.weights))
def weights(run: Run) -> tuple[Block, ...]:
    """Show one row a weight, and histograms of the largest."""
    panels = _panels(run.weights)
    plots: tuple[Block, ...] = ()
    if panels:
        named = f"the {len(panels)} largest weights" if len(panels) < len(run.weights) else "the weights"
        marked = any(p.marks for p in panels.values())
        told = " against the values their codebooks hold" if marked else ""
        alt = (
            f"Histograms of {named}{told}; vertical lines mark codebook values."
            if marked
            else f"Histograms of {named}."
        )
        plots = (Histograms(f"Original values of {named}{told}", alt, tuple(panels.values())),)
    return (*plots, _table(run, panels))


def _panels(facts: tuple[WeightFacts, ...]) -> dict[int, Panel]:
    drawn = [i for i, w in enumerate(facts) if w.histogram is not None and sum(w.histogram.counts) > 0]
    largest = sorted(sorted(drawn, key=lambda i: -reading.elements(facts[i]))[:MOST_PANELS])
    panels = {}
    for i in largest:
        histogram = facts[i].histogram
        assert histogram is not None
        marks = facts[i].codebook or ()
        panels[i] = Panel(f"weight-{i}", facts[i].name, histogram.edges, histogram.counts, marks)
    return panels


def _table(run: Run, panels: dict[int, Panel]) -> Table:
    changed = run.kind != "inspect"
    columns = [
        Column("Weight"),
        Column("Shape"),
        Column("Stored as", "encoding"),
        Column("Entries", "entries", numeric=True),
        Column("Bits a weight", "weight_bits", numeric=True),
        Column("Size", "size", numeric=True),
        *([Column("Weight error", "weight_error", numeric=True)] if changed else []),
        *([Column("Values")] if any(w.histogram for w in run.weights) else []),
        Column("Used by"),
    ]
    rows = tuple(_row(run, i, panels, changed) for i in range(len(run.weights)))
    caption = f"{fmt.plural(len(rows), 'weight')}" + (", before and after" if changed else "")
    return Table(caption, tuple(columns), rows, long=len(rows) > 12)


def _row(run: Run, index: int, panels: dict[int, Panel], changed: bool) -> tuple[Inline, ...]:
    w = run.weights[index]
    amount = reading.elements(w)
    bits = fmt.number(w.bits_after / amount if amount else None, reason=fmt.NOT_APPLICABLE)
    size = fmt.size(w.bits_after / 8)
    if changed:
        size = Quantity(f"{fmt.size(w.bits_before / 8).text} → {size.text}", size.exact)
    row: list[Inline] = [
        Name(w.name, panels[index].key if index in panels else None),
        fmt.shape(w.shape),
        f"{w.encoding}, {w.dtype}" if w.encoding == "dense" else w.encoding,
        fmt.count(w.entries, reason="—"),
        bits,
        size,
    ]
    row += [fmt.percent(w.relative_error)] if changed else []
    if any(other.histogram for other in run.weights):
        row.append(_spark(w))
    row.append(Names(w.consumers) if w.consumers else "—")
    return tuple(row)


def _spark(weight: WeightFacts) -> Inline:
    if weight.histogram is None or not sum(weight.histogram.counts):
        return "—"
    counts = weight.histogram.counts
    group = -(-len(counts) // SPARK_BARS)
    bars = [sum(counts[i : i + group]) for i in range(0, len(counts), group)]
    top = max(bars)
    low, high = weight.histogram.edges[0], weight.histogram.edges[-1]
    alt = f"values from {fmt.number(low).text} to {fmt.number(high).text}"
    return Spark(tuple(b / top for b in bars), alt)

"""Weights: how each is stored, how far it moved, and its values against its codebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Told:
    """A column, and what it tells of a weight; ``key`` is that of the weight's histogram."""

    head: Column
    cell: Callable[[WeightFacts, str | None], Inline]


def _table(run: Run, panels: dict[int, Panel]) -> Table:
    columns = _columns(run)
    rows = tuple(
        tuple(c.cell(w, panels[i].key if i in panels else None) for c in columns)
        for i, w in enumerate(run.weights)
    )
    changed = "" if run.kind == "inspect" else ", before and after"
    caption = f"{fmt.plural(len(rows), 'weight')}{changed}"
    return Table(caption, tuple(c.head for c in columns), rows, long=len(rows) > 12)


def _columns(run: Run) -> list[Told]:
    """Return the columns for which a weight of this run has something to tell."""
    changed = run.kind != "inspect"
    entries, error = Column("Entries", "entries", True), Column("Weight error", "weight_error", True)
    macs, size = Column("MACs", "macs", True), Column("Size", "size", True)
    shown: list[tuple[bool, Told]] = [
        (True, Told(Column("Weight"), lambda w, key: Name(w.name, key))),
        (True, Told(Column("Shape"), lambda w, key: _shape(w))),
        (any(w.role for w in run.weights), Told(Column("Role"), lambda w, key: w.role or "—")),
        (True, Told(Column("Stored as", "encoding"), lambda w, key: _stored(w))),
        (_some(run, "entries"), Told(entries, lambda w, key: fmt.count(w.entries, reason="—"))),
        (True, Told(Column("Bits a weight", "weight_bits", True), lambda w, key: _bits(w))),
        (True, Told(size, lambda w, key: _size(w, changed))),
        (changed, Told(error, lambda w, key: fmt.percent(w.relative_error, reason="—"))),
        (_some(run, "macs"), Told(macs, lambda w, key: fmt.large(w.macs, "", reason="—"))),
        (_some(run, "histogram"), Told(Column("Values"), lambda w, key: _spark(w))),
        (True, Told(Column("Used by"), lambda w, key: Names(w.consumers) if w.consumers else "—")),
    ]
    return [told for wanted, told in shown if wanted]


def _some(run: Run, field: str) -> bool:
    return any(getattr(w, field) is not None for w in run.weights)


def _shape(w: WeightFacts) -> str:
    before = fmt.shape(w.shape)
    return before if w.shape_after in (None, w.shape) else f"{before} → {fmt.shape(w.shape_after or ())}"


def _stored(w: WeightFacts) -> str:
    if w.rank is not None:
        return f"{w.encoding}, rank {w.rank}"
    return f"{w.encoding}, {w.dtype}" if w.encoding == "dense" else w.encoding


def _bits(w: WeightFacts) -> Quantity:
    amount = reading.elements(w)
    return fmt.number(w.bits_after / amount if amount else None, reason=fmt.NOT_APPLICABLE)


def _size(w: WeightFacts, changed: bool) -> Quantity:
    after = fmt.size(w.bits_after / 8)
    return Quantity(f"{fmt.size(w.bits_before / 8).text} → {after.text}", after.exact) if changed else after


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

"""Sizes: bytes, parameters, operations, memory, of each model."""

from __future__ import annotations

from collections.abc import Callable

from onnxcompress.core.run import Latency, ModelFacts, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Bar, Bars, Block, Column, Inline, Names, Paragraph, Quantity, Table, Term

Of = Callable[[ModelFacts, Latency | None], float | None]

ROWS: tuple[tuple[str, str, Of, Callable[[float | None], Quantity]], ...] = (
    ("File size", "size", lambda m, e: m.size_bytes, fmt.size),
    ("gzip size", "gzip", lambda m, e: m.gzip_bytes, fmt.size),
    ("Parameters", "parameters", lambda m, e: m.parameters, lambda v: fmt.count(_whole(v))),
    ("Bits per weight", "bits_per_weight", lambda m, e: m.bits_per_weight, fmt.number),
    ("MACs", "macs", lambda m, e: m.macs, lambda v: fmt.large(_whole(v), "")),
    ("Nodes", "nodes", lambda m, e: m.nodes, lambda v: fmt.count(_whole(v))),
    ("Load time", "load", lambda m, e: e.load_ms if e else None, fmt.milliseconds),
    ("Resident memory", "resident", lambda m, e: e.resident_bytes if e else None, fmt.size),
    ("Peak memory", "peak", lambda m, e: e.peak_bytes if e else None, fmt.size),
)

MEASURED = ("load", "resident", "peak")
"""Rows that only a measurement fills."""


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


@section("sizes", title="Size and cost", order=40, applies=lambda run: bool(run.models))
def sizes(run: Run) -> tuple[Block, ...]:
    """Show what each model weighs, before beside after."""
    two = reading.pair(run) is not None
    names = reading.labels(run)
    columns = [Column(""), *(Column(n, numeric=True) for n in names)]
    if two:
        columns.append(
            Column(f"{names[1]} / {names[0]}" if run.kind == "compress" else "Second / first", numeric=True)
        )
    rows = []
    for label, term, of, shown in ROWS:
        if run.kind == "inspect" and run.benchmark is None and term in MEASURED:
            continue
        values = [of(m, reading.latency_of(run, i)) for i, m in enumerate(run.models)]
        row: list[Inline] = [Term(label, term), *(shown(v) for v in values)]
        if two:
            before, after = values
            share = after / before if before and after is not None else None
            row.append(fmt.percent(share, reason="—"))
        rows.append(tuple(row))
    table = Table("What the files weigh and what they cost to run", tuple(columns), tuple(rows))
    blocks: list[Block] = [table, *_bars(run, names)]
    unknown = sorted({op for m in run.models for op in m.macs_unknown_ops})
    if unknown:
        blocks.append(
            Paragraph(
                ("MACs do not count these operators, whose cost is not known: ", Names(tuple(unknown)), ".")
            )
        )
    shapes = run.models[0].input_shapes
    if shapes:
        told = ", ".join(f"{name} {fmt.shape(dims)}" for name, dims in shapes.items())
        blocks.append(Paragraph((f"Input shapes: {told}.",)))
    return tuple(blocks)


def _bars(run: Run, names: tuple[str, ...]) -> tuple[Block, ...]:
    if len(run.models) < 2:
        return ()
    bars = []
    for name, model in zip(names, run.models, strict=True):
        bars.append(Bar(name, model.size_bytes, fmt.size(model.size_bytes)))
        bars.append(Bar(f"{name}, gzip", model.gzip_bytes, fmt.size(model.gzip_bytes)))
    alt = "Bar chart of file sizes: " + "; ".join(f"{b.name} {b.value.text}" for b in bars) + "."
    return (Bars("File sizes", alt, tuple(bars)),)

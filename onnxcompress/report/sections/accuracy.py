"""Accuracy: the metric before and after, on examples not trained on in this run."""

from __future__ import annotations

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Paragraph, Table


@section("accuracy", title="Accuracy", order=60, applies=lambda run: run.accuracy is not None)
def accuracy(run: Run) -> tuple[Block, ...]:
    """Show the metric before and after."""
    measured = run.accuracy
    assert measured is not None
    names = reading.labels(run) if reading.pair(run) else ("Before", "After")
    columns = (
        Column("Metric", "metric"),
        *(Column(name, numeric=True) for name in names),
        Column("Change", numeric=True),
    )
    better = "higher is better" if measured.higher_is_better else "lower is better"
    row = (
        f"{measured.metric} ({better})",
        reading.metric(measured, measured.before),
        reading.metric(measured, measured.after),
        reading.change(measured),
    )
    note = f"{fmt.plural(measured.examples, 'example')}: {reading.split(measured)}."
    return Table("Metric on labelled examples", columns, (row,)), Paragraph((note,))

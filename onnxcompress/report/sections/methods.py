"""Methods: what ran, with which options, after which paper."""

from __future__ import annotations

from typing import Any

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Paragraph, Strong, Table


@section("methods", title="Method", order=85, detail=True, applies=lambda run: bool(run.methods))
def methods(run: Run) -> tuple[Block, ...]:
    """Tell what each method did and with which options."""
    blocks: list[Block] = []
    for method in run.methods:
        took = fmt.duration(method.duration_s).text
        summary = method.summary.rstrip(".")
        told = f": {summary}" if summary else ""
        blocks.append(Paragraph((Strong(method.name), f"{told}. Source: {method.source}. Took {took}.")))
        if method.options:
            rows = tuple((name, _word(value)) for name, value in method.options.items())
            columns = (Column("Option"), Column("Value"))
            blocks.append(Table(f"Options of {method.name}", columns, rows, long=True))
    return tuple(blocks)


def _word(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_word(v) for v in value) or "none"
    return str(value)

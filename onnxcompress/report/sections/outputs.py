"""Outputs: how far they are from the original's, and from what the method believed."""

from __future__ import annotations

from onnxcompress.core.run import Comparison, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Mark, Name, Paragraph, Table

TITLES = {
    "original": "Outputs against the original file",
    "torch": "Outputs against the torch model the method worked on",
}


@section("outputs", title="Outputs", order=50, applies=lambda run: bool(run.comparisons))
def outputs(run: Run) -> tuple[Block, ...]:
    """Show the difference of every output, for every reference."""
    blocks: list[Block] = []
    for comparison in run.comparisons:
        blocks += [_table(comparison), Paragraph(_note(comparison))]
    return tuple(blocks)


def _table(comparison: Comparison) -> Table:
    ranked = any(o.top1_agreement is not None for o in comparison.outputs)
    broken = any(o.problem for o in comparison.outputs)
    columns = [
        Column("Output"),
        Column("Shape"),
        Column("Relative error", "relative_l2", numeric=True),
        Column("Largest difference", "max_abs", numeric=True),
        Column("Cosine", "cosine", numeric=True),
        *([Column("Top-1 agreement", "agreement", numeric=True)] if ranked else []),
        *([Column("Problem")] if broken else []),
    ]
    rows: list[tuple[Inline, ...]] = []
    for o in comparison.outputs:
        row: list[Inline] = [Name(o.name), fmt.shape(o.shape)]
        if o.equal:
            row.append("equal")
        else:
            row.append(fmt.percent(o.relative_l2, reason=fmt.NOT_APPLICABLE))
        row += [fmt.number(o.max_abs, reason=fmt.NOT_APPLICABLE), fmt.cosine(o.cosine)]
        row += [fmt.agreement(o.top1_agreement)] if ranked else []
        row += [o.problem or ""] if broken else []
        rows.append(tuple(row))
    caption = TITLES.get(comparison.reference, f"Outputs against {comparison.reference}")
    if comparison.candidate:
        caption = f"{comparison.candidate}: {caption[0].lower()}{caption[1:]}"
    return Table(caption, tuple(columns), tuple(rows), long=len(rows) > 12)


def _note(comparison: Comparison) -> tuple[Inline, ...]:
    examples = fmt.plural(comparison.examples, "random example" if comparison.random_inputs else "example")
    counted = not comparison.inputs or comparison.inputs.startswith(f"{comparison.examples} ")
    where = comparison.inputs or examples
    parts: list[Inline] = [f"Compared on {where}." if counted else f"Compared on {examples}: {where}."]
    if comparison.tolerance is not None:
        allowed = fmt.given(comparison.tolerance).text
        parts.append(f" Allowed relative error {allowed}: ")
        words = {True: "holds", False: "FAILED", None: "undecided"}[comparison.passed]
        parts += [Mark(comparison.passed, words), "."]
    elif comparison.passed is False:
        parts += [" ", Mark(False, "FAILED"), "."]
    return tuple(parts)

"""Gates: the limits set on this run, and whether they hold."""

from __future__ import annotations

from onnxcompress.core.run import Gate, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Mark, Name, Quantity, Table

WORDS = {True: "holds", False: "FAILED", None: "could not be decided"}


@section("gates", title="Gates", order=30, applies=lambda run: bool(run.gates))
def gates(run: Run) -> tuple[Block, ...]:
    """Show every limit with what was measured."""
    rows = tuple(
        (
            Name("--" + gate.name.replace("_", "-")),
            _limit(gate),
            _measured(gate),
            Mark(gate.passed, WORDS[gate.passed]),
        )
        for gate in run.gates
    )
    columns = (
        Column("Gate", "gate"),
        Column("Limit", numeric=True),
        Column("Measured", numeric=True),
        Column("Verdict"),
    )
    return (Table("Limits set for this run", columns, rows),)


def _limit(gate: Gate) -> Quantity:
    return fmt.size(gate.limit) if gate.name.endswith("bytes") else fmt.given(gate.limit)


def _measured(gate: Gate) -> Quantity:
    return fmt.size(gate.measured) if gate.name.endswith("bytes") else fmt.number(gate.measured, 4)

"""Gates: the limits set on this run, and whether they hold."""

from __future__ import annotations

from onnxcompress.core.run import Gate, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Mark, Name, Quantity, Table

WORDS = {True: "holds", False: "FAILED", None: "could not be decided"}

UNKNOWN = "unknown: the noise is larger than the margin"


@section("gates", title="Gates", order=30, applies=lambda run: bool(run.gates))
def gates(run: Run) -> tuple[Block, ...]:
    """Show every limit with what was measured."""
    many = any(gate.model is not None for gate in run.gates)
    rows = tuple(
        (
            Name(_name(gate)),
            *((Name(gate.model) if gate.model is not None else "all",) if many else ()),
            _limit(gate),
            _measured(gate),
            Mark(gate.passed, WORDS[gate.passed] if not gate.unknown else UNKNOWN),
        )
        for gate in run.gates
    )
    columns = (
        Column("Gate", "gate"),
        *((Column("Model"),) if many else ()),
        Column("Limit", numeric=True),
        Column("Measured", numeric=True),
        Column("Verdict"),
    )
    return (Table("Limits set for this run", columns, rows),)


def _name(gate: Gate) -> str:
    """Return the flag; against a baseline, what is compared."""
    if gate.name.startswith("baseline_"):
        return gate.name.removeprefix("baseline_").replace("_", " ") + ", no worse than the baseline"
    return "--" + gate.name.replace("_", "-")


def _limit(gate: Gate) -> Quantity:
    return fmt.size(gate.limit) if gate.name.endswith("bytes") else fmt.given(gate.limit)


def _measured(gate: Gate) -> Quantity:
    shown = fmt.size(gate.measured) if gate.name.endswith("bytes") else fmt.number(gate.measured, 4)
    if gate.low is None or gate.high is None:
        return shown
    interval = f"{fmt.number(gate.low).text} to {fmt.number(gate.high).text}"
    return Quantity(f"{shown.text} ({interval})", shown.exact)

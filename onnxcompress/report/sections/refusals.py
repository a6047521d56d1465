"""Left alone: weights and nodes that were not changed, and why."""

from __future__ import annotations

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Paragraph


@section("refusals", title="Left alone", order=100, detail=True, applies=lambda run: bool(run.refusals))
def refusals(run: Run) -> tuple[Block, ...]:
    """Show what was left alone, one row a reason."""
    kept = "that compression would leave" if run.kind == "inspect" else "left"
    told = f"{fmt.plural(len(run.refusals), 'place')} {kept} as in the original."
    return Paragraph((told,)), reading.reasons(run.refusals, "Left alone, by reason", "Where")

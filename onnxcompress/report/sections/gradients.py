"""Without gradient: weights that training could not reach."""

from __future__ import annotations

from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import Run
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Paragraph


def _unreached(run: Run) -> tuple[Refusal, ...]:
    found = (r for m in run.methods if m.training for r in m.training.without_gradient)
    return tuple(dict.fromkeys(found))


@section("gradients", title="Not trained", order=110, detail=True, applies=lambda run: bool(_unreached(run)))
def gradients(run: Run) -> tuple[Block, ...]:
    """Show the weights behind operators that no gradient passes."""
    told = "No gradient reaches these weights, so training could not adjust them; they kept their values."
    return Paragraph((told,)), reading.reasons(
        _unreached(run), "Weights without gradient, by reason", "Weight"
    )

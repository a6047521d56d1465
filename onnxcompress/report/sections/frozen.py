"""Groups kept whole, one by one: every reason with the names in it."""

from __future__ import annotations

from onnxcompress.core.run import Run
from onnxcompress.report.sections import _channels as channels
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block


def _more(run: Run) -> bool:
    """Return whether the table with one row a reason has left something out."""
    groups = channels.untouched(run)
    return len(channels.by_reason(groups)) < len(groups)


@section("frozen", title="Groups kept whole", order=102, detail=True, applies=_more)
def frozen(run: Run) -> tuple[Block, ...]:
    """Show every group that cannot be cut, with all reasons."""
    table = channels.kept_whole(channels.untouched(run), merged=False)
    return (table,) if table is not None else ()

"""A run as JSON: the run itself, of which every other report is a rendering."""

from __future__ import annotations

from onnxcompress.core.run import Run


def render(run: Run) -> str:
    """Return the run as JSON text with a final line break; docs/run_schema.md describes it."""
    return run.to_json() + "\n"

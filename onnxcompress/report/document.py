"""The document of a run: its sections in order, and the terms they use."""

from __future__ import annotations

from collections.abc import Iterator

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import SECTIONS
from onnxcompress.report.tree import Block, Document, Figures, Inline, Paragraph, Part, Table, Term

TITLES = {
    "compress": "Compression report",
    "inspect": "Model report",
    "compare": "Comparison report",
    "bench": "Latency report",
    "sensitivity": "Sensitivity report",
}


def document(run: Run) -> Document:
    """Return the report of a run, in no format yet."""
    parts = []
    for section in sorted(SECTIONS.values(), key=lambda s: (s.order, s.name)):
        if section.applies(run):
            parts.append(Part(section.name, section.title, section.build(run), section.detail))
    subtitle: list[Inline] = []
    shown = 3
    for model in run.models[:shown]:
        subtitle += [*([" · "] if subtitle else []), reading.named(model)]
    if len(run.models) > shown:
        subtitle.append(f" and {len(run.models) - shown} more")
    subtitle.append(f"{' · ' if subtitle else ''}{fmt.moment(run.started)} · onnxcompress {run.version}")
    return Document(TITLES.get(run.kind, "Report"), tuple(subtitle), tuple(parts))


def terms(report: Document) -> tuple[str, ...]:
    """Return the glossary keys that a document uses, in order of first use."""
    found = (key for part in report.parts for block in part.blocks for key in _keys(block))
    return tuple(dict.fromkeys(found))


def _keys(block: Block) -> Iterator[str]:
    if isinstance(block, Figures):
        yield from (f.term for f in block.figures if f.term)
    elif isinstance(block, Paragraph):
        yield from (p.key for p in block.parts if isinstance(p, Term))
    elif isinstance(block, Table):
        yield from (c.term for c in block.columns if c.term)
        yield from (cell.key for row in block.rows for cell in row if isinstance(cell, Term))

"""Environment: the machine, the versions, and the command to repeat the run."""

from __future__ import annotations

import json
import shlex

from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Listing, Name, Paragraph, Table, Term


@section("environment", title="How to repeat this", order=120, detail=True, applies=lambda run: True)
def environment(run: Run) -> tuple[Block, ...]:
    """Show command, recipe, versions, machine and fingerprints."""
    blocks: list[Block] = []
    if run.command is None:
        blocks.append(Paragraph(("Called from Python.",)))
    else:
        blocks.append(Listing("Command", shlex.join(run.command)))
    if run.recipe:
        text = json.dumps(run.recipe, indent=2, ensure_ascii=False, default=str)
        blocks.append(Listing("Resolved settings", text, folded=True))
    e = run.environment
    rows: list[tuple[Inline, ...]] = [
        ("onnxcompress", run.version),
        ("Started", run.started),
        ("Took", fmt.duration(run.duration_s)),
        (Term("Seed", "seed"), str(run.seed)),
        ("Processor", f"{e.cpu} ({fmt.plural(e.cores, 'core')})"),
        ("Platform", e.platform),
        ("Python", e.python),
        *((name, version) for name, version in e.packages.items()),
    ]
    rows += [
        (f"{label}, opset {m.opset}, IR {m.ir_version}", Name(f"sha256:{m.sha256}"))
        for label, m in zip(reading.labels(run), run.models, strict=True)
    ]
    blocks.append(Table("Versions and machine", (Column("What"), Column("Which")), tuple(rows), long=True))
    return tuple(blocks)

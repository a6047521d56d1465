"""Writes the table of operators: which way executes each version, and whether gradients flow.

Usage: ``python -m onnxcompress.engine.graph.operator_table docs/operators.md``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import onnx

from onnxcompress.engine.graph import foreign_onnx2torch
from onnxcompress.engine.graph.ways import own_operator
from onnxcompress.ops._base import OPS, Node

_INTRODUCTION = """# Operators

Which way the torch graph executes each version of each operator: **own** (ours, tested against onnxruntime),
**onnx2torch** (its converter, tested too), or **onnxruntime** (the single node, without gradient). Where our
operator meets a case that it refuses at run time (a rare attribute, a type torch lacks), the node takes the
next way, and a run reports the weights that receive no gradient because of it. A reserve in onnx2torch is
marked ¹. "By nature" means that the mathematics has no gradient there (comparisons, shapes, rounding to
integers). `Constant` nodes and local functions need no way: constants are read, functions are inlined.

Versions are those of the operator's definitions in onnx {version}; the table is written by
`python -m onnxcompress.engine.graph.operator_table docs/operators.md`.
"""


def versions() -> dict[tuple[str, str], list[int]]:
    """Return for each (domain, operator) the versions that are known, ours outside ONNX included."""
    found: dict[tuple[str, str], set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain.startswith("ai.onnx.preview") and schema.name != "Constant":
            found.setdefault((schema.domain, schema.name), set()).add(schema.since_version)
    for key in OPS:
        found.setdefault(key, {1})
    return {key: sorted(numbers) for key, numbers in sorted(found.items())}


def way(domain: str, op_type: str, version: int) -> tuple[str, str]:
    """Return the way that executes a version, and what becomes of gradients."""
    node = Node(op_type, version, domain=domain)
    op = own_operator(node)
    reserve = foreign_onnx2torch.trusted(node)
    if op is not None:
        return "own" + " ¹" * reserve, "flow" if op.differentiable else "none, by nature"
    return ("onnx2torch", "flow") if reserve else ("onnxruntime", "stop")


def lines() -> Iterator[str]:
    """Yield the document line by line."""
    yield _INTRODUCTION.format(version=onnx.__version__)
    table = versions()
    rows = {key: [(v, *way(*key, v)) for v in numbers] for key, numbers in table.items()}
    for domain in sorted({domain for domain, _ in rows}):
        inside = {kind: ways for (d, kind), ways in rows.items() if d == domain}
        own = sum(ways[-1][1].startswith("own") for ways in inside.values())
        yield f"## {domain or 'ai.onnx'}\n"
        yield f"{own} of {len(inside)} operators are ours in their newest version.\n"
        yield "| operator | versions | way | gradients |"
        yield "|---|---|---|---|"
        for kind, ways in inside.items():
            for (how, gradients), group in groupby(ways, key=lambda row: row[1:]):
                numbers = ", ".join(str(row[0]) for row in group)
                yield f"| {kind} | {numbers} | {how} | {gradients} |"
        yield ""


def main() -> None:
    """Write the table to the file named on the command line."""
    Path(sys.argv[1]).write_text("\n".join(lines()), encoding="utf-8")


if __name__ == "__main__":
    main()

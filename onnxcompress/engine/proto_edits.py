"""Edits of graphs as protos, for what passes through tools that know no other form."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node of the main graph uniquely, in place; unnamed ones after operator and outputs."""
    seen: set[str] = set()
    for node in graph.node:
        name = node.name or f"{node.op_type}({', '.join(node.output)})"
        while name in seen:
            name += "'"
        seen.add(name)
        node.name = name


def tapped(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that hands these values out, too; what is an output already is so once."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    declared = {output.name for output in proto.graph.output}
    result.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name and name not in declared
    )
    return result


def keep_declared(result: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Let a rewritten graph declare its outputs and values as the original does.

    Whoever infers shapes declares every value, and gives axes without a name one of its own.
    """
    made = {name for node in result.node for name in node.output}
    declared = [value for value in original.value_info if value.name in made]
    outputs = list(original.output)
    del result.output[:], result.value_info[:]
    result.output.extend(outputs)
    result.value_info.extend(declared)

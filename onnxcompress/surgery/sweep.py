"""After a cut: nodes and constants that nothing needs any more go, and copies that are equal again join."""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.core.model import Model, constant_of
from onnxcompress.engine.channels.unsharing import UNSHARED


def join_copies(model: Model) -> None:
    """Give the readers of a copy its original again, where both hold the same."""
    graph = model.ir.graph
    originals: dict[str, ir.Value] = dict(graph.initializers)
    originals |= {n.outputs[0].name or "": n.outputs[0] for n in graph if n.op_type == "Constant"}
    alone: dict[tuple[str, bytes], ir.Value] = {}
    for node in list(graph):
        if node.op_type != "Constant" or UNSHARED not in node.outputs[0].meta:
            continue
        copy = node.outputs[0]
        name = copy.meta.pop(UNSHARED)
        tensor, original = constant_of(copy), originals.get(name)
        if tensor is None:
            continue
        data = tensor.tobytes()
        known = None if original is None else constant_of(original)
        if original is not None and known is not None and _equal(known, tensor):
            copy.replace_all_uses_with(original)
            continue
        first = alone.setdefault((name, data), copy)
        if first is not copy:
            copy.replace_all_uses_with(first)


def _equal(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def sweep(model: Model) -> None:
    """Remove nodes whose outputs nobody reads, and initializers without readers.

    Nodes with nested graphs stay, and so do initializers that the caller may replace.
    """
    graph = model.ir.graph
    for node in reversed(list(graph)):
        needed = any(v.is_graph_output() or v.uses() for v in node.outputs)
        nests = any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        )
        if not needed and not nests and node.outputs:
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]

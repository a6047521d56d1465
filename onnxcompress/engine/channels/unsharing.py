"""Small constants that several nodes share are given to each of them alone.

Exporters store equal biases once; tied like that, a common zero bias would weld unrelated layers together.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.core.model import Model, constant_of

UNSHARED = "onnxcompress.unshared"
"""Key in a copy's metadata (in memory only) under which the shared constant's name is found."""


def unshared(model: Model) -> Model:
    """Return a clone in which every use of a constant of rank 0 or 1 in the main graph has its own copy.

    Encoded weights, graph outputs and constants that nested graphs read stay shared.
    """
    clone = Model(model.ir.clone(), model.source, model.encodings, model.steps)
    graph = clone.ir.graph
    names = {v.name for node in ir.traversal.RecursiveGraphIterator(graph) for v in node.outputs}
    names |= set(graph.initializers) | {v.name for v in graph.inputs}
    constants = [*graph.initializers.values(), *(n.outputs[0] for n in graph if n.op_type == "Constant")]
    for value in constants:
        tensor = constant_of(value)
        uses = list(value.uses())
        if tensor is None or len(tensor.shape) > 1 or tensor.size < 2 or len(uses) < 2:
            continue
        encoding = model.encodings.get(value.name or "")
        if value.is_graph_output() or (encoding is not None and encoding.kind != "dense"):
            continue
        if any(node.graph is not graph for node, _ in uses):
            continue
        for node, slot in uses[1:]:
            node.replace_input_with(slot, _copy(graph, node, value, tensor, names))
    return clone


def _copy(
    graph: ir.Graph, reader: ir.Node, value: ir.Value, tensor: ir.TensorProtocol, names: set[str | None]
) -> ir.Value:
    """Add a Constant node in front of ``reader`` that holds the same tensor."""
    count = 2
    while (name := f"{value.name}_{count}") in names:
        count += 1
    names.add(name)
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=name, num_outputs=1)
    node.outputs[0].name = name
    node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
    node.outputs[0].meta[UNSHARED] = value.name
    graph.insert_before(reader, node)
    return node.outputs[0]

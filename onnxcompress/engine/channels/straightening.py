"""Views that exporters spell out by index, as the Reshape that they are.

torch's ``as_strided`` becomes a Reshape to one axis and a Gather with indices computed from sizes. Where they
are 0, 1, 2 … the elements stay in order, but channels cannot be followed through an axis that they share with
the examples.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.core.model import Model
from onnxcompress.core.names import free_name
from onnxcompress.engine.channels.tracing import Trace

_STANDARD = ("", "ai.onnx")
_RESHAPE_SINCE = 5


def straightened(model: Model, trace: Trace) -> bool:
    """Replace such Gathers by Reshapes, in place; tell whether there were any.

    Args:
        model: a clone that nobody else holds.
        trace: of this model; it is not true of the changed one.
    """
    graph = model.ir.graph
    found = [node for node in graph if _in_order(node, trace)] if model.opset >= _RESHAPE_SINCE else []
    names = {v.name for node in graph.all_nodes() for v in node.outputs if v.name}
    names |= set(graph.initializers) | {v.name for v in graph.inputs if v.name}
    for node in found:
        before, value = node.inputs[0], node.outputs[0]
        assert before is not None
        flat = before.producer()
        assert flat is not None
        varying = trace.dynamic.get(value, frozenset())
        lengths = [-1 if axis in varying else d for axis, d in enumerate(trace.shapes[value])]
        tensor = ir.Tensor(np.array(lengths, np.int64))
        target = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1)
        target.name = target.outputs[0].name = free_name(f"{value.name}_shape", names)
        target.outputs[0].shape, target.outputs[0].dtype = ir.Shape([len(lengths)]), ir.DataType.INT64
        view = ir.Node("", "Reshape", [flat.inputs[0], target.outputs[0]], name=node.name, num_outputs=1)
        made = view.outputs[0]
        made.shape, made.type = value.shape, value.type
        graph.insert_before(node, [target, view])
        ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
        name, value.name = value.name, None
        made.name = name
        _remove(node)
    return bool(found)


def _in_order(node: ir.Node, trace: Trace) -> bool:
    """Tell whether a Gather takes every element of a value that was flattened, in order."""
    if node.op_type != "Gather" or node.domain not in _STANDARD or len(node.inputs) != 2:
        return False
    data, index = node.inputs
    flat = None if data is None else data.producer()
    if flat is None or flat.op_type != "Reshape" or flat.domain not in _STANDARD or flat.inputs[0] is None:
        return False
    if data is None or index not in trace.counting or len(trace.shapes.get(data, ())) != 1:
        return False
    value = node.outputs[0]
    as_many = trace.shapes[data] == (trace.arrays[index].size,)
    return as_many and value in trace.shapes and len(trace.dynamic.get(value, ())) <= 1


def _remove(node: ir.Node) -> None:
    """Remove a node that nobody reads, and those that only it has read."""
    assert node.graph is not None
    makers = {v.producer() for v in node.inputs if v is not None}
    node.graph.remove(node, safe=True)
    for maker in makers:
        if (
            maker is not None
            and maker.graph is not None
            and not any(v.uses() or v.is_graph_output() for v in maker.outputs)
        ):
            _remove(maker)

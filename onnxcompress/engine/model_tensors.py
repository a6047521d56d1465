"""The tensors of a model, wherever they are: in nested graphs and functions, in memory or in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of the model: initializers and attributes, nested graphs and functions included."""
    yield from _tensors(model.graph)
    for function in model.functions.values():
        yield from _tensors(function)


def _tensors(graph: ir.Graph | ir.Function) -> Iterator[ir.TensorProtocol]:
    if isinstance(graph, ir.Graph):
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref() or attribute.value is None:
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.as_tensors()
            for nested in graphs_of(attribute):
                yield from _tensors(nested)


def in_memory(model: ir.Model) -> ir.Model:
    """Return a clone whose tensors all live in memory; the model itself where they do already.

    Tensors are copied: the file behind an external one is mapped, and must not be closed while somebody
    looks at it.
    """
    if not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors(model)):
        return model
    clone = model.clone()
    for graph in (*clone.graphs(), *clone.functions.values()):
        for value in graph.initializers.values() if isinstance(graph, ir.Graph) else ():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _copied(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    tensor = attribute.as_tensor()
                    if isinstance(tensor, ir.ExternalTensor):
                        node.attributes[name] = ir.AttrTensor(name, _copied(tensor))
    return clone


def _copied(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    return ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)


def graphs_of(attribute: ir.Attr) -> Iterable[ir.Graph]:
    """Return the graphs that an attribute holds."""
    if attribute.is_ref() or attribute.value is None:
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()

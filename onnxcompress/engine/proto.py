"""ModelProto to onnx_ir and back without loss.

onnx_ir forgets, or refuses, a few things a file may hold. They travel beside the graph, in ``meta`` of the
graph or node they belong to (which ``clone`` keeps), and ``to_proto`` puts them back:

* sparse initializers and sparse Constants: dense in the graph, sparse again in the file: as they came while
  unchanged, else where that takes fewer bytes;
* map types of inputs and outputs, attributes onnx_ir has no class for;
* annotations of values for quantisation, which stay with the name where a compressed weight takes it over;
* training information, and ``value_info`` exactly as declared (onnx_ir adds entries for initializers);
* the order of nodes: onnxruntime takes them in any order, in memory they are sorted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxcompress.core.model import Home, Weight, constant_of
from onnxcompress.engine import sparse_tensors
from onnxcompress.engine.model_tensors import graphs_of, tensors

_KEY = "onnxcompress.carried"
_TRAINING = "onnxcompress.training_info"
_POSITION = "onnxcompress.position"

_A = onnx.AttributeProto
_UNTYPED = {"f": _A.FLOAT, "i": _A.INT, "s": _A.STRING, "t": _A.TENSOR, "g": _A.GRAPH}
_UNTYPED_LISTS = {
    "floats": _A.FLOATS,
    "ints": _A.INTS,
    "strings": _A.STRINGS,
    "tensors": _A.TENSORS,
    "graphs": _A.GRAPHS,
}


@dataclass(frozen=True)
class _CarriedNode:
    """Attributes onnx_ir cannot hold, serialised; the dense stand-in of a sparse Constant."""

    attributes: tuple[bytes, ...] = ()
    stand_in: ir.TensorProtocol | None = None


@dataclass
class _Carried:
    """What one graph or function declares that onnx_ir would lose; protos are kept serialised."""

    declared: frozenset[str] = frozenset()
    types: dict[str, bytes] = field(default_factory=dict)
    value_info: dict[str, bytes] = field(default_factory=dict)
    annotations: dict[str, bytes] = field(default_factory=dict)
    annotating: frozenset[str] = frozenset()
    parameters: dict[str, bytes] = field(default_factory=dict)
    sparse: dict[str, bytes] = field(default_factory=dict)
    stand_ins: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    nodes: list[tuple[tuple[bytes, ...], list[_Carried]]] = field(default_factory=list)


def read_proto(written: Path | bytes) -> ir.Model:
    """Return a serialised model, or one in a file, as onnx_ir; see ``from_proto``."""
    if isinstance(written, bytes):
        return from_proto(onnx.load_from_string(written))
    return from_proto(onnx.load(written, load_external_data=False), base_dir=str(written.parent))


def from_proto(proto: onnx.ModelProto, *, base_dir: str | None = None) -> ir.Model:
    """Return the model as onnx_ir; ``to_proto`` of it equals ``proto``. The proto is taken over and changed.

    Args:
        proto: the model; pass a copy to keep it.
        base_dir: folder that external data is relative to; it is mapped into memory when read.

    Raises:
        ValueError, onnx_ir.serde.SerdeError: the proto holds something that cannot be represented.
    """
    training = tuple(t.SerializeToString() for t in proto.training_info)
    graph, functions = _strip(proto.graph), [_strip(f) for f in proto.functions]
    model = ir.from_proto(proto)
    _attach(graph, model.graph)
    if len(functions) != len(model.functions):
        raise ValueError("two functions have the same domain, name and overload")
    for carried, function in zip(functions, model.functions.values(), strict=True):
        _attach(carried, function)
    model.graph.sort()
    for function in model.functions.values():
        function.sort()
    if training:
        model.graph.meta[_TRAINING] = training
    if base_dir is not None:
        for tensor in tensors(model):
            if isinstance(tensor, ir.ExternalTensor):
                tensor.base_dir = base_dir
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a proto; external tensors stay references to their files.

    Raises:
        onnx_ir.serde.SerdeError: a tensor cannot be read or the graph cannot be written.
    """
    proto = ir.to_proto(model)
    _restore(model.graph, proto.graph)
    for function, function_proto in zip(model.functions.values(), proto.functions, strict=True):
        _restore(function, function_proto)
    for data in model.graph.meta.get(_TRAINING, ()):
        proto.training_info.add().ParseFromString(data)
    return proto


def annotating(graph: ir.Graph) -> Collection[str]:
    """Return the names of the tensors that annotations of values name: scales and zero points."""
    carried: _Carried = graph.meta.get(_KEY, _Carried())
    return carried.annotating


def came_sparse(weight: Weight) -> bool:
    """Tell whether the file that a weight came in holds it as a sparse tensor."""
    return _sparse_of(weight) is not None


def plain_bytes(weight: Weight) -> int:
    """Return the bytes that a weight's numbers take in a file unless they are packed.

    These are fewer than all of its numbers have where it came sparse, and is written so.
    """
    whole = weight.size * weight.dtype.itemsize
    held = _sparse_of(weight)
    if held is None:
        return whole
    came, stand_in = held
    tensor = constant_of(weight.value)
    if tensor is None or tensor is stand_in:
        return sparse_tensors.proto_bytes(came)
    return min(whole, sparse_tensors.sparse_bytes(np.asarray(tensor.numpy())))


def _sparse_of(weight: Weight) -> tuple[onnx.SparseTensorProto, ir.TensorProtocol | None] | None:
    """Return the sparse tensor that a weight came as, and what stands for it in the graph."""
    if weight.home is Home.INITIALIZER:
        carried, name = weight.graph.meta.get(_KEY), str(weight.value.name)
        if carried is None or name not in carried.sparse:
            return None
        return onnx.SparseTensorProto.FromString(carried.sparse[name]), carried.stand_ins[name]
    producer = weight.value.producer()
    kept = producer.meta.get(_KEY) if producer is not None else None
    if kept is None or kept.stand_in is None:
        return None
    lost = (onnx.AttributeProto.FromString(data) for data in kept.attributes)
    return next(((a.sparse_tensor, kept.stand_in) for a in lost if a.type == _A.SPARSE_TENSOR), None)


def _strip(graph: onnx.GraphProto | onnx.FunctionProto) -> _Carried:
    """Take out of a proto what onnx_ir cannot hold, and return it."""
    carried = _Carried(declared=frozenset(v.name for v in graph.value_info))
    if isinstance(graph, onnx.GraphProto):
        inner = {o for n in graph.node for o in n.output} | {i.name for i in graph.initializer}
        inner -= {v.name for v in (*graph.input, *graph.output)}
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _has_map(value.type):
                carried.types[value.name] = value.type.SerializeToString()
                value.ClearField("type")
        carried.annotations = {a.tensor_name: a.SerializeToString() for a in graph.quantization_annotation}
        carried.annotating = frozenset(_parameters(graph))
        inside = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
        carried.parameters = {t.name: t.SerializeToString() for t in inside if t.name in carried.annotating}
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            carried.sparse[name] = sparse.SerializeToString()
            graph.initializer.append(numpy_helper.from_array(sparse_tensors.dense(sparse), name))
            inner.add(name)
        graph.ClearField("sparse_initializer")
        carried.value_info = {v.name: v.SerializeToString() for v in graph.value_info if v.name not in inner}
    for node in graph.node:
        kept = _strip_node(node)
        carried.nodes.append((kept, [_strip(g) for g in _nested_protos(node)]))
    return carried


def _strip_node(node: onnx.NodeProto) -> tuple[bytes, ...]:
    for attribute in node.attribute:
        if attribute.type == _A.UNDEFINED and not attribute.ref_attr_name:
            attribute.type = _guess_type(attribute)
    lost = [a for a in node.attribute if _not_representable(a)]
    kept = tuple(a.SerializeToString() for a in lost)
    for attribute in lost:
        if node.op_type == "Constant" and attribute.type == _A.SPARSE_TENSOR:
            array = sparse_tensors.dense(attribute.sparse_tensor)
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
        node.attribute.remove(attribute)
    return kept


def _guess_type(attribute: onnx.AttributeProto) -> onnx.AttributeProto.AttributeType:
    """Return the type of an attribute whose file is older than the field that states it."""
    for name, kind in _UNTYPED.items():
        if attribute.HasField(name):
            return kind
    for name, kind in _UNTYPED_LISTS.items():
        if len(getattr(attribute, name)):
            return kind
    return _A.UNDEFINED


def _not_representable(attribute: onnx.AttributeProto) -> bool:
    if attribute.ref_attr_name:
        return False
    if attribute.type in (_A.SPARSE_TENSOR, _A.SPARSE_TENSORS):
        return True
    if attribute.type == _A.TYPE_PROTO:
        return _has_map(attribute.tp)
    if attribute.type == _A.STRINGS:
        return not all(_is_text(s) for s in attribute.strings)
    return False


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _has_map(kind: onnx.TypeProto) -> bool:
    if kind.HasField("map_type") or kind.HasField("opaque_type"):
        return True
    if kind.HasField("sequence_type"):
        return _has_map(kind.sequence_type.elem_type)
    return kind.HasField("optional_type") and _has_map(kind.optional_type.elem_type)


def _attach(carried: _Carried, graph: ir.Graph | ir.Function) -> None:
    """Hang what was taken out onto the graph and its nodes."""
    graph.meta[_KEY] = carried
    if isinstance(graph, ir.Graph):
        for name in carried.sparse:
            tensor = graph.initializers[name].const_value
            assert tensor is not None
            carried.stand_ins[name] = tensor
    for node, (attributes, nested) in zip(graph, carried.nodes, strict=True):
        if attributes:
            value = node.attributes.get("value")
            stand_in = value.as_tensor() if node.op_type == "Constant" and value is not None else None
            node.meta[_KEY] = _CarriedNode(attributes, stand_in)
        for inner, inner_graph in zip(nested, _nested_of(node), strict=True):
            _attach(inner, inner_graph)
    carried.nodes.clear()
    if not _is_sorted(graph):
        for position, node in enumerate(graph):
            node.meta[_POSITION] = position


def _is_sorted(graph: ir.Graph | ir.Function) -> bool:
    """Return whether every node comes after the producers of what it, and graphs nested in it, read."""
    position = {node: index for index, node in enumerate(graph)}
    for index, node in enumerate(graph):
        for reader in (node, *(n for nested in _nested_of(node) for n in nested.all_nodes())):
            producers = (v.producer() for v in reader.inputs if v is not None)
            if any(position.get(p, -1) > index for p in producers if p is not None):
                return False
    return True


def _restore(graph: ir.Graph | ir.Function, proto: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Put back into a proto what its graph carries."""
    carried = graph.meta.get(_KEY)
    if carried is not None:
        _restore_declarations(carried, proto)
        if isinstance(graph, ir.Graph) and isinstance(proto, onnx.GraphProto):
            _restore_sparse(carried, graph, proto)
            _restore_annotations(carried, graph, proto)
    for node, node_proto in zip(graph, proto.node, strict=True):
        kept = node.meta.get(_KEY)
        if kept is not None:
            _restore_attributes(kept, node, node_proto)
        for nested, nested_proto in zip(_nested_of(node), _nested_protos(node_proto), strict=True):
            _restore(nested, nested_proto)
    positions = [node.meta.get(_POSITION) for node in graph]
    if positions and None not in positions and len(set(positions)) == len(positions):
        kept_nodes = [node.SerializeToString() for node in proto.node]
        kept_nodes = [data for _, data in sorted(zip(positions, kept_nodes, strict=True))]
        proto.ClearField("node")
        for data in kept_nodes:
            proto.node.add().ParseFromString(data)


def _restore_declarations(carried: _Carried, proto: onnx.GraphProto | onnx.FunctionProto) -> None:
    declared = [v for v in proto.value_info if v.name in carried.declared]
    if len(declared) < len(proto.value_info):
        kept = [v.SerializeToString() for v in declared]
        proto.ClearField("value_info")
        for data in kept:
            proto.value_info.add().ParseFromString(data)
    present = {v.name for v in proto.value_info}
    for name, data in carried.value_info.items():
        if name not in present:
            proto.value_info.add().ParseFromString(data)
    if isinstance(proto, onnx.GraphProto):
        for value in (*proto.input, *proto.output, *proto.value_info):
            if value.name in carried.types and not value.type.WhichOneof("value"):
                value.type.ParseFromString(carried.types[value.name])


def _restore_annotations(carried: _Carried, graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Write what is annotated of names that another value has now: the decoded form of a weight.

    With the tensors that annotations name, which no node reads.
    """
    there = {v.name for v in (*graph.inputs, *graph.initializers.values())}
    there |= {v.name for node in graph for v in node.outputs}
    written = {a.tensor_name for a in proto.quantization_annotation}
    for name, data in carried.annotations.items():
        if name in there and name not in written:
            proto.quantization_annotation.add().ParseFromString(data)
    for name in sorted(_parameters(proto) & carried.parameters.keys() - there):
        proto.initializer.add().ParseFromString(carried.parameters[name])


def _parameters(graph: onnx.GraphProto) -> set[str]:
    return {p.value for a in graph.quantization_annotation for p in a.quant_parameter_tensor_names}


def _restore_sparse(carried: _Carried, graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Write sparse again what came sparse: as it came, or what it has become where that is smaller."""
    again: dict[str, onnx.SparseTensorProto] = {}
    for name, data in carried.sparse.items():
        tensor = graph.initializers[name].const_value if name in graph.initializers else None
        if tensor is carried.stand_ins[name]:
            again[name] = onnx.SparseTensorProto.FromString(data)
        elif tensor is not None and (smaller := sparse_tensors.sparse(tensor, name)) is not None:
            again[name] = smaller
    for index in reversed(range(len(proto.initializer))):
        if proto.initializer[index].name in again:
            del proto.initializer[index]
    proto.sparse_initializer.extend(again.values())


def _restore_attributes(kept: _CarriedNode, node: ir.Node, proto: onnx.NodeProto) -> None:
    if kept.stand_in is not None:
        value = node.attributes.get("value")
        if value is None:
            return
        if value.value is not kept.stand_in:
            smaller = sparse_tensors.sparse(value.as_tensor(), "")
            if smaller is not None:
                del proto.attribute[[a.name for a in proto.attribute].index("value")]
                proto.attribute.append(onnx.helper.make_attribute("sparse_value", smaller))
            return
        del proto.attribute[[a.name for a in proto.attribute].index("value")]
    for data in kept.attributes:
        proto.attribute.add().ParseFromString(data)


def _nested_of(node: ir.Node) -> list[ir.Graph]:
    return [g for a in node.attributes.values() for g in graphs_of(a)]


def _nested_protos(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        if attribute.type == _A.GRAPH:
            found.append(attribute.g)
        elif attribute.type == _A.GRAPHS:
            found.extend(attribute.graphs)
    return found

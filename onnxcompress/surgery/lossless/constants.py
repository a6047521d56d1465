"""Constants: what is computed from constants alone is stored instead, where the file gets smaller by that.

Values are computed by onnxruntime with no optimisation, by the same operators that would compute them later,
so that they are equal bit by bit. What is larger than what it is made from (a shape that is expanded, a
packed weight that is decoded) stays computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import constant_of
from onnxcompress.engine import runtime
from onnxcompress.surgery.lossless.workpiece import Workpiece, label, plain

_NODE = 24
"""Bytes that a tensor takes in a file besides its elements and its name, about."""

_LEFT_ALONE = frozenset(["Constant", "Optional", "SequenceConstruct", "SequenceEmpty", "StringNormalizer"])


def fold_constants(work: Workpiece, chosen: Callable[[ir.Value], bool] | None = None) -> Iterator[str]:
    """Store what is computed from constants, where that is smaller; yields the nodes whose results it was.

    Args:
        work: the graph under work.
        chosen: which of the results to store; None: all.
    """
    work.look()
    for graph in work.graphs():
        computed = _computed(work, graph)
        if not computed:
            continue
        candidates = [v for v in _candidates(work, computed) if chosen is None or chosen(v)]
        wanted = [v for v in candidates if _may_pay(work, v, computed)]
        found = _values(work, wanted, computed)
        # From the last on: where a long way is folded at once, what it leads through need not be stored.
        for value in reversed(wanted):
            array, node = found.get(value), value.producer()
            if array is None or node is None or node.graph is not graph or not value.uses():
                continue
            if _bytes_of(value, array) < _freed(work, value, computed):
                name = label(node)
                work.store(graph, value, array)
                _drop_unread(work, graph, node)
                yield name


def _drop_unread(work: Workpiece, graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nobody reads any more, and what in front of it only it read."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current.graph is not graph or any(v.uses() or v.is_graph_output() for v in current.outputs):
            continue
        read = [v for v in current.inputs if v is not None]
        computed = current.op_type not in ("Shape", "Size")
        graph.remove(current, safe=True)
        work.drop_unread(read)
        waiting += [m for v in read if computed and (m := v.producer()) is not None]


def store_constants(work: Workpiece) -> Iterator[str]:
    """Turn Constant nodes into initializers, which take fewer bytes; yields their names."""
    if not work.modern:
        return
    for graph in work.graphs():
        for node in list(graph):
            if node.op_type != "Constant" or not plain(node) or len(node.attributes) != 1:
                continue
            value = node.outputs[0]
            tensor = constant_of(value) if "value" in node.attributes else None
            if tensor is None or value.is_graph_output() or not value.name or node.meta:
                continue
            stored = ir.Value(name=value.name, const_value=tensor, doc_string=value.doc_string)
            stored.shape, stored.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
            work.move(value, stored)
            value.replace_all_uses_with(stored)
            graph.remove(node, safe=True)
            value.name = None
            graph.register_initializer(stored)
            yield stored.name or ""


# what is computed from constants ------------------------------------------------------------------------


def _computed(work: Workpiece, graph: ir.Graph) -> dict[ir.Node, None]:
    """Return the nodes of a graph whose results are the same for every input, in their order."""
    found: dict[ir.Node, None] = {}
    for node in graph:
        if not plain(node) or node.op_type in _LEFT_ALONE or not node.outputs:
            continue
        if node.op_type in ("Shape", "Size"):
            data = node.inputs[0]
            dims = None if data is None else work.dims(data)
            if dims is not None and None not in dims:
                found[node] = None
            continue
        inputs = [v for v in node.inputs if v is not None]
        if (inputs or node.op_type == "Range") and all(_is_constant(work, v, found) for v in inputs):
            found[node] = None
    return found


def _is_constant(work: Workpiece, value: ir.Value, computed: dict[ir.Node, None]) -> bool:
    maker = value.producer()
    if maker is not None and maker in computed:
        return True
    return work.fixed(value) is not None and not work.encoded(value)


def _candidates(work: Workpiece, computed: dict[ir.Node, None]) -> list[ir.Value]:
    """Return the results that could be stored: those of one tensor, that are no output of their graph."""
    return [
        node.outputs[0]
        for node in computed
        if len(node.outputs) == 1 and node.outputs[0].uses() and not node.outputs[0].is_graph_output()
    ]


def _cone(value: ir.Value, computed: dict[ir.Node, None]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes that a value is computed by, the last first, and the constants they read."""
    nodes: dict[ir.Node, None] = {}
    constants: dict[ir.Value, None] = {}
    waiting = [value]
    while waiting:
        current = waiting.pop()
        maker = current.producer()
        if maker is None or maker not in computed:
            constants[current] = None
        elif maker not in nodes:
            nodes[maker] = None
            if maker.op_type not in ("Shape", "Size"):
                waiting += [v for v in maker.inputs if v is not None]
    return list(nodes), list(constants)


def _may_pay(work: Workpiece, value: ir.Value, computed: dict[ir.Node, None]) -> bool:
    """Tell whether a value could be smaller than all it is computed from; others are not computed."""
    dims, dtype = work.dims(value), work.dtype(value)
    if dims is None or None in dims or dtype is None:
        return True
    nodes, constants = _cone(value, computed)
    most = sum(map(_node_bytes, nodes)) + sum(_constant_bytes(c) for c in constants)
    count = int(np.prod([d or 0 for d in dims], dtype=np.float64))
    return count * dtype.bitwidth / 8 < most


def _freed(work: Workpiece, value: ir.Value, computed: dict[ir.Node, None]) -> int:
    """Return the bytes of nodes and constants that nobody reads once a value is stored."""
    nodes, constants = _cone(value, computed)
    gone: set[ir.Node] = set()
    for node in _last_first(nodes):
        readers = [(v, reader) for v in node.outputs for reader, _ in v.uses()]
        if any(v.is_graph_output() for v in node.outputs):
            continue
        if all(v is value or reader in gone for v, reader in readers):
            gone.add(node)
    total = sum(map(_node_bytes, gone))
    for constant in constants:
        fixed = work.fixed(constant) is not None and not constant.is_graph_output()
        if fixed and all(reader in gone for reader, _ in constant.uses()):
            total += _constant_bytes(constant)
    return total


def _last_first(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Return nodes of one graph with every reader in front of what it reads."""
    remaining = dict.fromkeys(nodes)
    order: list[ir.Node] = []
    while remaining:
        ready = [
            n for n in remaining if not any(reader in remaining for v in n.outputs for reader, _ in v.uses())
        ]
        order += ready
        for node in ready:
            del remaining[node]
    return order


def _node_bytes(node: ir.Node) -> int:
    return 4 + int(ir.to_proto(node).ByteSize())


def _constant_bytes(value: ir.Value) -> int:
    tensor = constant_of(value)
    return 0 if tensor is None else int(tensor.nbytes) + len(value.name or "") + _NODE


def _bytes_of(value: ir.Value, array: Array) -> int:
    return int(array.nbytes) + len(value.name or "") + _NODE


# computing ----------------------------------------------------------------------------------------------


def _values(work: Workpiece, wanted: list[ir.Value], computed: dict[ir.Node, None]) -> dict[ir.Value, Array]:
    """Compute constant values in onnxruntime; those of a type that it does not give are left out."""
    together = [v for v in wanted if work.dtype(v) in _TYPES]
    if not together:
        return {}
    with contextlib.suppress(OnnxCompressError):
        return _run(work, together, computed)
    found: dict[ir.Value, Array] = {}
    for value in together:  # one that fails must not keep the others from being folded
        with contextlib.suppress(OnnxCompressError):
            found |= _run(work, [value], computed)
    return found


_TYPES = frozenset(
    ir.DataType[name]
    for name in (
        "BOOL", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64",
        "FLOAT16", "FLOAT", "DOUBLE",
    )
)  # fmt: skip


def _run(work: Workpiece, wanted: list[ir.Value], computed: dict[ir.Node, None]) -> dict[ir.Value, Array]:
    nodes: dict[ir.Node, None] = {}
    tensors: dict[ir.Value, None] = {}
    for value in wanted:
        inner, constants = _cone(value, computed)
        nodes |= dict.fromkeys(inner)
        tensors |= dict.fromkeys(constants)
    graph = onnx.GraphProto(name="constants")
    # Values are renamed: what a node of another graph around this one is called may be used in it again.
    names: dict[ir.Value, str] = {}
    for tensor in tensors:
        held = constant_of(tensor)
        assert held is not None
        names[tensor] = f"c{len(names)}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(held.numpy()), names[tensor]))
    for node in (n for n in computed if n in nodes):
        if node.op_type in ("Shape", "Size"):
            result = names[node.outputs[0]] = f"c{len(names)}"
            graph.initializer.append(onnx.numpy_helper.from_array(_measured(work, node), result))
            continue
        made = graph.node.add()
        made.CopyFrom(ir.to_proto(node))
        names |= {v: f"c{len(names) + i}" for i, v in enumerate(node.outputs) if v.name}
        del made.input[:], made.output[:]
        made.input.extend("" if v is None else names[v] for v in node.inputs)
        made.output.extend(names.get(v, "") for v in node.outputs)
    for value in wanted:
        dtype = work.dtype(value)
        assert dtype is not None
        graph.output.append(onnx.helper.make_tensor_value_info(names[value], int(dtype), None))
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in work.ir.opset_imports.items()]
    proto = onnx.ModelProto(graph=graph, opset_import=opsets, ir_version=max(4, work.ir.ir_version or 4))
    outputs: dict[str, Any] = runtime.open_session(proto.SerializeToString(), optimization="none").run({})
    return {v: np.asarray(outputs[names[v]]) for v in wanted if isinstance(outputs[names[v]], np.ndarray)}


def _measured(work: Workpiece, node: ir.Node) -> Array:
    """Return what Shape or Size says of a value of known shape."""
    data = node.inputs[0]
    dims = None if data is None else work.dims(data)
    assert dims is not None
    lengths = [d for d in dims if d is not None]
    if node.op_type == "Size":
        return np.array(int(np.prod(lengths, dtype=np.int64)), np.int64)
    start = int(node.attributes["start"].as_int()) if "start" in node.attributes else 0
    end = int(node.attributes["end"].as_int()) if "end" in node.attributes else len(lengths)
    return np.array(lengths[start:end], np.int64)

"""What is there twice goes: equal constants, and nodes that compute the same from the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator

import onnx_ir as ir

from onnxcompress.core.model import subgraphs
from onnxcompress.engine.proto import annotating
from onnxcompress.surgery.lossless.batch_norm import trains
from onnxcompress.surgery.lossless.workpiece import Workpiece, label, plain

_SMALL = 64
"""Bytes up to which a tensor is compared as it is, above it by a digest and then as it is."""


def merge_constants(work: Workpiece) -> Iterator[str]:
    """Let readers of a constant read an equal one instead, also of a graph around theirs; yields what goes.

    Weights that are compressed stay as they are, and so do those that a caller can see or replace.
    """
    yield from _merge_constants(work, work.ir.graph, {})


def _merge_constants(
    work: Workpiece, graph: ir.Graph, outer: dict[Hashable, list[ir.Value]]
) -> Iterator[str]:
    known, named = {key: list(values) for key, values in outer.items()}, annotating(graph)
    constants = list(graph.initializers.values())
    constants += [node.outputs[0] for node in graph if node.op_type == "Constant" and plain(node)]
    for value in constants:
        tensor = work.fixed(value)
        if tensor is None or work.encoded(value) or value.is_graph_output() or value.name in named:
            continue
        if tensor.dtype == ir.DataType.STRING or _moves(work, value):
            continue
        data = tensor.tobytes()
        digest = data if len(data) <= _SMALL else hashlib.sha256(data).digest()
        key = (tensor.dtype, tuple(tensor.shape.numpy()), len(data), digest)
        same = next((v for v in known.get(key, ()) if _bytes(work, v) == data), None)
        if same is None:
            known.setdefault(key, []).append(value)
            continue
        value.replace_all_uses_with(same)
        if (maker := value.producer()) is not None:
            graph.remove(maker, safe=True)
        else:
            del graph.initializers[value.name or ""]
        yield value.name or ""
    # A node may be in front of the first Constant it now reads.
    makers = [v.producer() for values in known.values() for v in values]
    _to_front(graph, [m for m in makers if m is not None and m.graph is graph])
    for _, nested in subgraphs(graph):
        yield from _merge_constants(work, nested, known)


def _moves(work: Workpiece, value: ir.Value) -> bool:
    """Tell whether a reader may write to a constant: statistics of a normalisation in training mode."""
    return any(slot in (3, 4) and trains(node, work.opset) for node, slot in value.uses())


def _bytes(work: Workpiece, value: ir.Value) -> bytes:
    tensor = work.fixed(value)
    return b"" if tensor is None else tensor.tobytes()


def _to_front(graph: ir.Graph, constants: list[ir.Node]) -> None:
    if constants:
        order = {node: index for index, node in enumerate(graph)}
        late = [
            n for n in constants if any(order.get(u, order[n]) < order[n] for u, _ in n.outputs[0].uses())
        ]
        if late or any(u.graph is not graph for n in constants for u, _ in n.outputs[0].uses()):
            graph.sort()


def merge_nodes(work: Workpiece) -> Iterator[str]:
    """Let readers of a node's results read those of an equal node; yields what goes."""
    for graph in work.graphs():
        known: dict[Hashable, ir.Node] = {}
        for node in list(graph):
            if not plain(node) or not node.outputs or node.op_type in ("Constant", "Dropout"):
                continue
            key = _computed(node)
            first = known.setdefault(key, node)
            if first is node or any(v.is_graph_output() for v in node.outputs):
                continue
            for value, same in zip(node.outputs, first.outputs, strict=True):
                value.replace_all_uses_with(same)
            graph.remove(node, safe=True)
            yield label(node)


def _computed(node: ir.Node) -> Hashable:
    attributes = sorted(
        (a.name, ir.to_proto(a).SerializeToString(deterministic=True)) for a in node.attributes.values()
    )
    used = tuple(bool(v.name) for v in node.outputs)
    return (node.op_type, node.overload, tuple(map(id, node.inputs)), tuple(attributes), used)

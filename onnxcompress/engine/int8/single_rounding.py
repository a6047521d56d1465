"""Values are rounded to 8 bits once: next to what a model rounds already, no second pair is put in.

Of a model that is quantised in part, the quantiser puts its own QuantizeLinear and DequantizeLinear behind a
value that goes into such a pair, or comes out of one. Two grids in a row cost accuracy, and onnxruntime makes
one of them, so that it computes something else than the graph says.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def grids(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """Return the ranges of values that a graph rounds to 8 bits: value -> what the 256 levels span.

    A layer that reads such a value has to know its scale: that of the bias hangs on it.
    """
    arrays = {t.name: t for t in graph.initializer}
    found = {}
    for node in _roundings(graph):
        if node.input[1] not in arrays:
            continue
        scale, zero = (onnx.numpy_helper.to_array(arrays[name]) for name in node.input[1:3])
        if scale.size == 1:
            limits, step = np.iinfo(zero.dtype), float(scale.reshape(()))
            least, most = (step * (int(bound) - int(zero.reshape(()))) for bound in (limits.min, limits.max))
            found[node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]] = (least, most)
    return found


def round_once(graph: onnx.GraphProto, before: Collection[str]) -> None:
    """Leave out pairs of the quantiser's beside pairs of 8 bits that the graph had.

    Args:
        graph: what the quantiser made; changed.
        before: names of the nodes that the graph had, all of which have one.
    """
    old = {node.name for node in _roundings(graph)} & set(before)
    if not old:
        return
    maker = {output: node for node in graph.node for output in node.output}
    pairs = {}  # value behind a pair of the quantiser's -> the pair
    for node in graph.node:
        first = maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if (
            first is not None
            and first.op_type == "QuantizeLinear"
            and not {first.name, node.name} & set(before)
        ):
            pairs[node.output[0]] = (first, node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in pairs:
                given = pairs[name][0].input[0]
                if node.name in old or (given in maker and maker[given].name in old):
                    node.input[place] = given
    for pair in pairs.values():
        for node in reversed(pair):
            _drop_unread(graph, node)


def _roundings(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that round an activation to 8 bits, or read one that was rounded."""
    kinds = {t.name: t.data_type for t in graph.initializer}
    return [
        node
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and len(node.input) > 2
        and kinds.get(node.input[2]) in _BYTES
        and node.input[0] not in kinds
    ]


def _drop_unread(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    read = {name for other in graph.node for name in other.input} | {o.name for o in graph.output}
    if read.isdisjoint(node.output):
        gone = set(node.input)
        graph.node.remove(node)
        gone -= {name for other in graph.node for name in other.input}
        for tensor in [t for t in graph.initializer if t.name in gone]:
            graph.initializer.remove(tensor)

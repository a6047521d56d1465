"""Values are rounded to 8 bits once: next to what a model rounds already, no second pair is put in.

Of a model that is quantised in part, the quantiser puts its own QuantizeLinear and DequantizeLinear behind a
value that goes into such a pair, or comes out of one. Two grids in a row cost accuracy, and onnxruntime makes
one of them, so that it computes something else than the graph says.
"""

from __future__ import annotations

import math
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
    for node, kind in _roundings(graph):
        scale, zero = (arrays.get(name) for name in (*node.input[1:3], "")[:2])
        if scale is None or math.prod(scale.dims) != 1:
            continue
        origin = 0 if zero is None else int(onnx.numpy_helper.to_array(zero).reshape(()))
        limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind))
        step = float(onnx.numpy_helper.to_array(scale).reshape(()))
        least, most = (step * (int(bound) - origin) for bound in (limits.min, limits.max))
        found[node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]] = (least, most)
    return found


def round_once(graph: onnx.GraphProto, before: Collection[str]) -> None:
    """Leave out pairs of the quantiser's beside pairs of 8 bits that the graph had.

    Args:
        graph: what the quantiser made; changed.
        before: names of the nodes that the graph had, all of which have one.
    """
    old = {node.name for node, _ in _roundings(graph)} & set(before)
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


def _roundings(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]]:
    """Return the nodes that round an activation to 8 bits, or read one that was rounded, and to which type.

    One without a zero point has 0: rounding makes unsigned numbers unless told otherwise, and what reads them
    goes by their type.
    """
    kinds = {t.name: t.data_type for t in graph.initializer}
    made = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    found = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in kinds:
            continue
        if len(node.input) > 2 and node.input[2]:
            kind = kinds.get(node.input[2])
        elif node.op_type == "QuantizeLinear":
            told = [a.i for a in node.attribute if a.name == "output_dtype"]
            kind = told[0] if told and told[0] else onnx.TensorProto.UINT8
        else:
            kind = made.get(node.input[0])
        if kind in _BYTES:
            found.append((node, kind))
            made[node.output[0]] = kind  # of numbers that are read back nothing asks
    return found


def _drop_unread(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    read = {name for other in graph.node for name in other.input} | {o.name for o in graph.output}
    if read.isdisjoint(node.output):
        gone = set(node.input)
        graph.node.remove(node)
        gone -= {name for other in graph.node for name in other.input}
        for tensor in [t for t in graph.initializer if t.name in gone]:
            graph.initializer.remove(tensor)

"""Nodes that pass their input on unchanged go, and so do pairs of which the second undoes the first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.surgery.lossless.workpiece import Dims, Workpiece, label, number, plain

_RESHAPING = frozenset(["Flatten", "Reshape", "Squeeze", "Unsqueeze"])
"""Operators that give the same elements in the same order."""


def remove_passing(work: Workpiece) -> Iterator[str]:
    """Remove nodes that change nothing; yields what goes."""
    work.look()
    for graph in work.graphs():
        for node in list(graph):
            if not plain(node) or node.graph is None or not node.inputs or node.inputs[0] is None:
                continue
            if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
                continue
            source = _source(work, node)
            name = label(node)
            if work.bypass(node, source) if source is not None else _shorter(work, node):
                yield name


def _source(work: Workpiece, node: ir.Node) -> ir.Value | None:
    """Return the value that the first result of a node equals bit by bit, None where there is none."""
    data, kind = node.inputs[0], node.op_type
    assert data is not None
    if kind == "Identity":
        return data
    if kind == "Dropout":
        return data if _inference(work, node) else None
    if kind == "Cast":
        return _before_casts(work, node)
    if kind in _RESHAPING:
        return _same_elements(work, node)
    if kind == "Transpose":
        return _before_transposes(node)
    if kind in ("Concat", "Max", "Mean", "Min", "Sum"):
        return data if len(node.inputs) == 1 else None
    if kind in ("Mul", "Div", "Sub"):
        return _neutral(work, node)
    if kind in ("Expand", "Tile"):
        return data if _surely_equal(work.dims(data), work.dims(node.outputs[0])) else None
    if kind == "Slice":
        return data if _takes_all(work, node) else None
    if kind == "Pad":
        pads = _argument(work, node, 1, "pads")
        return data if pads is not None and not pads.any() else None
    return None


def _inference(work: Workpiece, node: ir.Node) -> bool:
    """Tell whether a Dropout drops nothing."""
    if work.opset < 7:
        return bool(number(node, "is_test", 0))
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = work.array(node.inputs[2])
    return training is not None and not training.any()


# casts --------------------------------------------------------------------------------------------------

_EXACT = {
    "BOOL": (
        "UINT8",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT16",
        "UINT32",
        "UINT64",
        "FLOAT16",
        "FLOAT",
        "DOUBLE",
    ),
    "UINT8": ("INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FLOAT16", "FLOAT", "DOUBLE"),
    "INT8": ("INT16", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE"),
    "UINT16": ("INT32", "UINT32", "INT64", "UINT64", "FLOAT", "DOUBLE"),
    "INT16": ("INT32", "INT64", "FLOAT", "DOUBLE"),
    "INT32": ("INT64", "DOUBLE"),
    "UINT32": ("INT64", "UINT64", "DOUBLE"),
    "FLOAT16": ("FLOAT", "DOUBLE"),
    "BFLOAT16": ("FLOAT", "DOUBLE"),
    "FLOAT": ("DOUBLE",),
}
"""Type -> types that hold every number of it exactly."""


def _before_casts(work: Workpiece, node: ir.Node) -> ir.Value | None:
    data, wanted = node.inputs[0], _cast_type(node)
    assert data is not None
    if wanted is None:
        return None
    kind = work.dtype(data)
    if kind == wanted:
        return data
    before = data.producer()
    if (
        before is None
        or before.op_type != "Cast"
        or not plain(before)
        or before.inputs[0] is None
        or kind is None
    ):
        return None
    exact = kind.name in _EXACT.get(wanted.name, ())
    return before.inputs[0] if exact and work.dtype(before.inputs[0]) == wanted else None


def _cast_type(node: ir.Node) -> ir.DataType | None:
    attribute = node.attributes.get("to")
    if attribute is None or attribute.is_ref():
        return None
    if attribute.type == ir.AttributeType.STRING:
        return ir.DataType.__members__.get(attribute.as_string())
    return ir.DataType(attribute.as_int())


# shapes -------------------------------------------------------------------------------------------------


def _same_elements(work: Workpiece, node: ir.Node) -> ir.Value | None:
    """Return the value, through operators that only reshape, that has the shape of a node's result."""
    wanted = work.dims(node.outputs[0])
    data = node.inputs[0]
    while data is not None:
        if _equal_if_as_many(work.dims(data), wanted) or _undone(work, data, node):
            return data
        maker = data.producer()
        if maker is None or maker.op_type not in _RESHAPING or not plain(maker):
            return None
        data = maker.inputs[0]
    return None


def _equal_if_as_many(one: Dims | None, other: Dims | None) -> bool:
    """Tell whether two shapes of as many elements are equal: one length at most may be unknown.

    >>> _equal_if_as_many((None, 3), (None, 3)), _equal_if_as_many((None, None), (None, None))
    (True, False)
    """
    if one is None or other is None or len(one) != len(other):
        return False
    unknown = [a is None or b is None for a, b in zip(one, other, strict=True)]
    known = all(a == b and a != 0 for a, b, u in zip(one, other, unknown, strict=True) if not u)
    return known and (sum(unknown) <= 1 if any(unknown) else True)


def _undone(work: Workpiece, data: ir.Value, node: ir.Node) -> bool:
    """Tell whether a node inserts the axes again that the node before it took out of ``data``, or reverse."""
    between = node.inputs[0]
    maker = None if between is None else between.producer()
    if (
        maker is None
        or maker.inputs[:1] != (data,)
        or {maker.op_type, node.op_type} != {"Squeeze", "Unsqueeze"}
    ):
        return False
    first, second = _argument(work, maker, 1, "axes"), _argument(work, node, 1, "axes")
    return first is not None and second is not None and first.size > 0 and bool(np.array_equal(first, second))


def _surely_equal(one: Dims | None, other: Dims | None) -> bool:
    return one is not None and other is not None and one == other and None not in one


def _before_transposes(node: ir.Node) -> ir.Value | None:
    data, order = node.inputs[0], _order(node)
    if order is None:
        return None
    if order == sorted(order):
        return data
    composed, before = _composed(node)
    return before if composed is not None and composed == sorted(composed) else None


def _composed(node: ir.Node) -> tuple[list[int] | None, ir.Value | None]:
    """Return the order that a Transpose and the one before it come to, and what that one reads."""
    data, order = node.inputs[0], _order(node)
    maker = None if data is None else data.producer()
    if maker is None or maker.op_type != "Transpose" or not plain(maker) or order is None:
        return None, None
    first = _order(maker)
    if first is None or len(first) != len(order):
        return None, None
    return [first[axis] for axis in order], maker.inputs[0]


def _order(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("perm")
    return None if attribute is None or attribute.is_ref() else list(attribute.as_ints())


def _shorter(work: Workpiece, node: ir.Node) -> bool:
    """Let a Transpose or Reshape do the work of the same kind of node before it, which nobody else reads."""
    data = node.inputs[0]
    if data is None or len(tuple(data.uses())) != 1 or data.is_graph_output():
        return False
    if node.op_type == "Transpose":
        composed, before = _composed(node)
        if composed is None or before is None:
            return False
        node.attributes["perm"] = ir.AttrInt64s("perm", composed)
        node.replace_input_with(0, before)
        return True
    maker = data.producer()
    if node.op_type != "Reshape" or maker is None or maker.op_type not in _RESHAPING or not plain(maker):
        return False
    wanted = _argument(work, node, 1, "shape")
    if wanted is None or (wanted == 0).any() or maker.inputs[0] is None:
        return False  # 0 copies a length of the input, which would be another one
    node.replace_input_with(0, maker.inputs[0])
    return True


# arithmetic and selection -------------------------------------------------------------------------------


def _neutral(work: Workpiece, node: ir.Node) -> ir.Value | None:
    """Return what is multiplied by or divided by ones, or has positive zeros subtracted from it."""
    if work.opset < 7:
        return None
    one, other = node.inputs
    pairs = [(one, other), (other, one)] if node.op_type == "Mul" else [(one, other)]
    for data, constant in pairs:
        array = work.array(constant)
        if data is None or array is None or array.size == 0 or work.fixed(data) is not None:
            continue
        neutral = array == 0 if node.op_type == "Sub" else array == 1
        if not neutral.all() or (node.op_type == "Sub" and np.signbit(array.astype(np.float64)).any()):
            continue
        dims = work.dims(data)
        single = array.size == 1 and dims is not None and array.ndim <= len(dims)
        if single or array.ndim == 0 or _surely_equal(dims, work.dims(node.outputs[0])):
            return data
    return None


def _takes_all(work: Workpiece, node: ir.Node) -> bool:
    """Tell whether a Slice takes everything along every axis."""
    starts, ends = _argument(work, node, 1, "starts"), _argument(work, node, 2, "ends")
    if starts is None or ends is None:
        return False
    steps = np.ones(len(starts), np.int64)
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        given = work.array(node.inputs[4])
        if given is None:
            return False
        steps = given
    data = node.inputs[0]
    assert data is not None
    dims = work.dims(data)
    axes = np.arange(len(starts))
    if "axes" in node.attributes or (len(node.inputs) > 3 and node.inputs[3] is not None):
        found = _argument(work, node, 3, "axes")
        if found is None:
            return False
        axes = found
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]
        whole = end >= np.iinfo(np.int32).max or (length is not None and end >= length)
        if start != 0 or step != 1 or not whole:
            return False
    return True


def _argument(work: Workpiece, node: ir.Node, slot: int, name: str) -> Array | None:
    """Return integers that are an attribute in old versions of an operator and an input in new ones."""
    attribute = node.attributes.get(name)
    if attribute is not None and not attribute.is_ref():
        return np.array(attribute.as_ints(), np.int64)
    value = node.inputs[slot] if len(node.inputs) > slot else None
    found = work.array(value)
    return None if found is None else found.reshape(-1)

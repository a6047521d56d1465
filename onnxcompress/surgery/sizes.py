"""Sizes in a graph whose channels were cut: what it computes from shapes stays, what it shapes is corrected.

A number computed from a shape may be anything, the scale of an attention for example. So every ``Shape`` goes
on giving the sizes of before, and the operators that are told a shape are told the new one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Shape
from onnxcompress.surgery.operation import Operation

_WHERE_SINCE = 9


def pin_sizes(operation: Operation) -> None:
    """Let every Shape and Size of a value that was cut give what it gave before."""
    extent, tensors = operation.extent, operation.tensors
    for node, twin in operation.twins.items():
        if node.op_type not in ("Shape", "Size") or node.domain not in ("", "ai.onnx"):
            continue
        value = node.inputs[0]
        shape = None if value is None else extent.shape(value)
        if value is None or shape is None or not extent.axes(value):
            continue
        output = twin.outputs[0]
        readers = tuple(output.uses())
        varying = [extent.channels.is_dynamic(value.name or "", axis) for axis in range(len(shape))]
        before = np.array(shape, np.int64)
        if node.op_type == "Size":
            fixed = None if any(varying) else before.prod()
            pinned = _sized(operation, value, fixed, twin)
        else:
            part = slice(_number(node, "start"), _number(node, "end"))
            pinned = mixed_shape(operation, before[part], np.array(varying)[part], output, _after(twin))
        for reader, slot in readers:
            reader.replace_input_with(slot, pinned)
        if output.is_graph_output():
            tensors.take_over(output, pinned, _after(twin))


def _number(node: ir.Node, name: str) -> int | None:
    attribute = node.attributes.get(name)
    return None if attribute is None else attribute.as_int()


def _after(node: ir.Node) -> ir.Node | None:
    """Return the node behind one, in front of which what reads its output may be put; None at the end."""
    graph = node.graph
    assert graph is not None
    following = list(graph)[list(graph).index(node) + 1 :]
    return following[0] if following else None


def _sized(operation: Operation, value: ir.Value, fixed: int | None, twin: ir.Node) -> ir.Value:
    """Return the number of elements of before: ``fixed``, or that of now times what the cut axes lost."""
    tensors, axes = operation.tensors, operation.extent.axes(value)
    output = twin.outputs[0]
    if fixed is not None:
        return tensors.new(f"{output.name}_before", np.array(fixed, np.int64))
    kept = np.prod([mask.sum() for mask in axes.values()])
    whole = np.prod([mask.size for mask in axes.values()])
    behind = _after(twin)
    divisor = tensors.new("kept_channels", np.array(kept, np.int64))
    factor = tensors.new("channels_before", np.array(whole, np.int64))
    part = tensors.node(behind, "Div", [output, divisor], f"{output.name}_rest")
    return tensors.node(behind, "Mul", [part, factor], f"{output.name}_before")


def mixed_shape(
    operation: Operation, known: Array, varying: Array, computed: ir.Value, before: ir.Node | None
) -> ir.Value:
    """Return a shape vector whose fixed entries are ``known`` and whose varying ones are computed.

    Args:
        operation: the cut under way.
        known: int64, the lengths; those of varying axes are not looked at.
        varying: bool, which lengths depend on the sizes the model is fed with.
        computed: the vector that holds those.
        before: node in front of which nodes may be added; None: at the end.
    """
    tensors, name = operation.tensors, f"{computed.name}_kept"
    if not varying.any():
        return tensors.new(name, known)
    fixed = np.where(varying, 0, known)
    if operation.opset >= _WHERE_SINCE:
        mask = tensors.new("fixed_axes", ~varying)
        return tensors.node(before, "Where", [mask, tensors.new(name, fixed), computed], name)
    ones = tensors.new("varying_axes", varying.astype(np.int64))
    rest = tensors.node(before, "Mul", [computed, ones], f"{computed.name}_varying")
    return tensors.node(before, "Add", [rest, tensors.new(name, fixed)], name)


def constant_target(given: Array, target: Shape, varying: Array, copied: Shape | None) -> Array:
    """Return a shape vector that names ``target``, changed as little as possible.

    Args:
        given: the vector as it is: lengths, −1 (the rest), 0 (as the input, where ``copied`` is given).
        target: the lengths it must name.
        varying: which of them depend on the sizes the model is fed with.
        copied: shape of the input after the cut where 0 copies from it.
    """
    changed = np.array(given)
    for axis, length in enumerate(target):
        entry = int(given[axis])
        if entry == -1 or varying[axis]:
            continue
        copies = entry == 0 and copied is not None and axis < len(copied) and copied[axis] == length
        if not copies:
            changed[axis] = length
    return changed

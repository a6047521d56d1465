"""Nodes that multiply by and add constants, channel by channel: normalisations, products, sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.surgery.lossless.batch_norm import trains
from onnxcompress.surgery.lossless.workpiece import Workpiece, number


@dataclass(frozen=True, eq=False)
class Affine:
    """A node that computes ``scale * data + shift``.

    Attributes:
        node: the node.
        data: what it reads.
        scale: float64, one number, or one a channel.
        shift: float64, of the same shape.
        axis: axis of ``data`` along which the channels lie, negative from the end; None: one number for all.
        freed_bytes: bytes of the constants that go with it.
    """

    node: ir.Node
    data: ir.Value
    scale: Array
    shift: Array
    axis: int | None
    freed_bytes: int


def affine_of(work: Workpiece, node: ir.Node) -> Affine | str | None:
    """Return what a node does to its input channel by channel.

    Returns:
        None where it does something else; for a normalisation the reason why it cannot be folded.
    """
    if node.op_type == "BatchNormalization":
        return _normalisation(work, node)
    if node.op_type in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2 and work.opset >= 7:
        return _arithmetic(work, node)
    return None


def _normalisation(work: Workpiece, node: ir.Node) -> Affine | str:
    data, constants = node.inputs[0], [work.array(v) for v in node.inputs[1:5]]
    if any(v is not None and v.is_graph_input() for v in node.inputs[1:5]):
        return "its numbers are inputs that a caller may replace; --freeze-inputs makes them constants"
    if data is None or len(constants) < 4 or any(c is None for c in constants):
        return "its numbers are not constants"
    if trains(node, work.opset):
        return "it normalises by its own input (training mode)"
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return "others read its statistics"
    if not number(node, "spatial", 1):
        return "it has numbers for every place (spatial=0)"
    scale, shift, mean, variance = (np.asarray(c, np.float64).reshape(-1) for c in constants if c is not None)
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + number(node, "epsilon", 1e-5))
        moved = shift - mean * gain
    if not (np.isfinite(gain).all() and np.isfinite(moved).all()):
        return "its variances give no finite scale"
    return Affine(node, data, gain, moved, 1, _freed(work, node))


def _arithmetic(work: Workpiece, node: ir.Node) -> Affine | None:
    first, second = node.inputs
    one, other = work.array(first), work.array(second)
    if first is None or second is None or (one is None) == (other is None):
        return None
    data, array, swapped = (first, other, False) if one is None else (second, one, True)
    if array is None or array.dtype.kind not in "fV" or (swapped and node.op_type == "Div"):
        return None
    placed = _channels(array, work.dims(data))
    if placed is None:
        return None
    values, axis = placed
    kind = node.op_type
    if kind == "Div" and not values.all():
        return None
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    scale = (
        {"Mul": values, "Div": 1 / values}[kind]
        if kind in ("Mul", "Div")
        else (-ones if swapped and kind == "Sub" else ones)
    )
    shift = zeros if kind in ("Mul", "Div") else (-values if kind == "Sub" and not swapped else values)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return Affine(node, data, scale, shift, axis, _freed(work, node))


def _channels(array: Array, dims: tuple[int | None, ...] | None) -> tuple[Array, int | None] | None:
    """Return the numbers of a constant that is broadcast, and the axis they lie along, from the end.

    None where they lie along several axes, or make the result larger than the input.
    """
    rank = None if dims is None else len(dims)
    if rank is not None and array.ndim > rank:
        return None
    values = array.astype(np.float64).reshape(-1)
    if values.size == 1:
        return (values, None) if rank is not None or array.ndim <= 1 else None
    long = [axis for axis, length in enumerate(array.shape) if length > 1]
    if len(long) != 1 or array.size == 0:
        return None
    axis = long[0] - array.ndim
    # An input of length 1 would be broadcast to the constant's; a layer's channels are as many as it says.
    return values, axis


def _freed(work: Workpiece, node: ir.Node) -> int:
    return sum(
        int(tensor.nbytes)
        for value in node.inputs
        if value is not None and (tensor := work.fixed(value)) is not None and len(tuple(value.uses())) == 1
    )

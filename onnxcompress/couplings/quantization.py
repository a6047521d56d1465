"""Quantisation: scales follow their channels; integer products are silenced before their input is quantised.

Zero is quantised to the zero point, which integer products take off again: a channel that is zero in front of
``DynamicQuantizeLinear`` changes neither its range (which always holds zero) nor the product behind it.
"""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import each, fixed, given, passed, positive
from onnxcompress.couplings._base import Crossing, Labels, coupling
from onnxcompress.couplings._convolutions import channels, positions, regrouped
from onnxcompress.couplings._products import Axis, product

_INTEGER = "is summed over as integers, where no float of its own can be silenced"


@coupling("QuantizeLinear", "DequantizeLinear")
def _quantize(crossing: Crossing) -> None:
    """Tie scales and zero points, one for the tensor, for each position of an axis or for each block."""
    scale, shape = crossing.shape(1), crossing.shape(0)
    parameters = given(crossing, (1, 2))
    if int(np.prod(scale)) == 1 and len(scale) <= 1:
        passed(crossing)
        fixed(crossing, 1, 2)
        return
    along = positive(crossing.node.get("axis", 1), len(shape))
    blocked = len(scale) > 1
    for axis, size in enumerate(shape):
        labels = crossing.labels(0, axis)
        if size > 1 and (blocked or axis == along):
            for slot in parameters:
                own = crossing.labels(slot, axis if blocked else 0)
                labels = _joined(crossing, labels, own, blocked and axis == along)
        crossing.put(0, axis, labels)


def _joined(crossing: Crossing, labels: Labels | None, own: Labels | None, in_blocks: bool) -> Labels | None:
    """Tie positions with their scales; along the axis that has blocks, a block is cut whole."""
    if not in_blocks:
        return crossing.merge(labels, own)
    if own is None:  # one block is all there is
        return labels
    if labels is None:
        return crossing.merge(None, own)
    size = crossing.node.get("block_size", 0) or -(-len(labels) // len(own))
    return crossing.merge(labels, np.repeat(own, size)[: len(labels)])


@coupling("DynamicQuantizeLinear")
def _dynamic_quantize(crossing: Crossing) -> None:
    passed(crossing)
    for axis, _ in each(crossing, 0):
        crossing.contract(0, axis, None)


def _silenced_before(crossing: Crossing) -> bool:
    """Tell whether the activation was quantised from floats, where its channels can be silenced."""
    value = crossing.source.inputs[0]
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DynamicQuantizeLinear"


def _inner(crossing: Crossing, mine: Labels | None, other: Labels | None) -> None:
    """Couple the two sides of a sum of integers."""
    if _silenced_before(crossing):
        crossing.merge(mine, other)
    else:
        crossing.freeze(mine, _INTEGER)
        crossing.freeze(other, _INTEGER)


def _axes(crossing: Crossing, slot: int) -> list[Axis]:
    return [(slot, axis) for axis in range(len(crossing.shape(slot)))]


def _matmul(crossing: Crossing, first: int, second: int, columns: tuple[int, ...]) -> None:
    """Couple a product of integers; ``columns`` are parameters of the second operand's columns."""

    def inner(one: Axis, other: Axis) -> None:
        _inner(crossing, crossing.labels(*one), crossing.labels(*other))

    product(crossing, _axes(crossing, first), _axes(crossing, second), inner)
    made = crossing.labels(second, -1)
    for slot in given(crossing, columns):
        if len(crossing.shape(slot)) == 1:
            if crossing.shape(slot)[0] > 1:
                crossing.merge(made, crossing.labels(slot, 0))
        else:
            fixed(crossing, slot, why=_INTEGER)


@coupling("MatMulInteger")
def _matmul_integer(crossing: Crossing) -> None:
    fixed(crossing, 2, why=_INTEGER)
    _matmul(crossing, 0, 1, (3,))


@coupling("QLinearMatMul")
def _qlinear_matmul(crossing: Crossing) -> None:
    fixed(crossing, 1, 2, 6, 7, why=_INTEGER)
    _matmul(crossing, 0, 3, (4, 5))


def _convolution(crossing: Crossing, weight: int, parameters: tuple[int, ...]) -> None:
    positions(crossing, weight)
    made = channels(crossing, weight, lambda read: _inner(crossing, crossing.labels(0, 1), read))
    for slot in given(crossing, parameters):
        if crossing.shape(slot) and crossing.shape(slot)[0] > 1:
            made = crossing.merge(made, crossing.labels(slot, 0))
    crossing.put(0, 1, made)


@coupling("ConvInteger", repair=lambda cut: regrouped(cut, 1))
def _conv_integer(crossing: Crossing) -> None:
    _convolution(crossing, 1, (3,))


@coupling("QLinearConv", repair=lambda cut: regrouped(cut, 3))
def _qlinear_conv(crossing: Crossing) -> None:
    _convolution(crossing, 3, (4, 5, 8))

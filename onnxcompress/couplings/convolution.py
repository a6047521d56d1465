"""Convolutions: input channels are summed over, output channels are made; groups must stay equally wide."""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import alike, fixed, given, has, positive, tied
from onnxcompress.couplings._base import Crossing, Cut, Labels, coupling
from onnxcompress.ops._base import Node

_KERNEL = "is a position of a convolution's kernel"
_SLID = "is slid over by a convolution's kernel"


def _pointwise(node: Node, kernel: tuple[int, ...]) -> bool:
    """Tell whether each position is computed from itself alone."""
    ones = (*kernel, *(node.get("strides") or ()))
    return all(v == 1 for v in ones) and not any(node.get("pads") or ()) and not node.get("output_shape")


def _places(crossing: Crossing, weight: int) -> None:
    """Freeze kernel positions, and carry or freeze the axes of the input that are no channels."""
    kernel = crossing.shape(weight)[2:]
    pointwise = _pointwise(crossing.node, kernel)
    for axis in range(2, 2 + len(kernel)):
        crossing.freeze(crossing.labels(weight, axis), _KERNEL)
        if pointwise:
            crossing.put(0, axis, crossing.labels(0, axis))
        else:
            crossing.freeze(crossing.labels(0, axis), _SLID)
    crossing.put(0, 0, crossing.labels(0, 0))


def _grouped(crossing: Crossing, weight: int) -> Labels | None:
    """Couple the channels of a Conv whose weight (out in/group …) is at ``weight``; return the output's.

    Where a group has one input or one output channel, a group is the unit and their number changes.
    Otherwise position j is the same channel in all groups, and their number stays.
    """
    groups = crossing.node.get("group", 1)
    out, inside = crossing.shape(weight)[:2]
    made = crossing.labels(weight, 0)
    read = crossing.labels(weight, 1)
    if groups > 1 and (inside == 1 or out == groups):
        crossing.freeze(read, "stands beside others in each group of a grouped convolution")
        own = crossing.labels(0, 1)
        one = None if own is None else tied(crossing, own, inside)
        return crossing.merge(None if one is None else np.repeat(one, out // groups), made)
    if groups == 1:
        if read is not None or crossing.labels(0, 1) is not None:
            crossing.contract(0, 1, read, weight=(weight, 1))
        return made
    assert read is not None
    crossing.contract(0, 1, np.tile(read, groups), weight=(weight, 1))
    return None if made is None else alike(crossing, made, out // groups)


def _regrouped(cut: Cut, weight: int) -> None:
    groups = cut.node.get("group", 1)
    out, inside = cut.shape(weight)[:2]
    if groups > 1 and (inside == 1 or out == groups):
        cut.set_attribute("group", cut.cut_shape(0)[1] // inside)


@coupling("Conv", repair=lambda cut: _regrouped(cut, 1))
def _conv(crossing: Crossing) -> None:
    _places(crossing, 1)
    made = _grouped(crossing, 1)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    crossing.put(0, 1, made)


@coupling("FusedConv", domain="com.microsoft", repair=lambda cut: _regrouped(cut, 1))
def _fused_conv(crossing: Crossing) -> None:
    """Couple like Conv; a tensor added to the result is tied to it axis by axis."""
    kernel = crossing.shape(1)[2:]
    for axis in range(2, 2 + len(kernel)):
        crossing.freeze(crossing.labels(1, axis), _KERNEL)
        crossing.freeze(crossing.labels(0, axis), _SLID)
    made = _grouped(crossing, 1)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    rows = crossing.labels(0, 0)
    if has(crossing, 3):
        fixed_axes = range(2, len(crossing.shape(3)))
        for axis in fixed_axes:
            crossing.freeze(crossing.labels(3, axis), _SLID)
        made = crossing.merge(made, crossing.labels(3, 1)) if crossing.out_shape()[1] > 1 else made
        rows = crossing.merge(rows, crossing.labels(3, 0)) if crossing.out_shape()[0] > 1 else rows
    crossing.put(0, 1, made)
    crossing.put(0, 0, rows)


def _regrouped_transposed(cut: Cut) -> None:
    groups = cut.node.get("group", 1)
    rows, outside = cut.shape(1)[:2]
    if groups > 1 and (rows == groups or outside == 1):
        cut.set_attribute("group", cut.cut_shape(0)[1] // (rows // groups))


@coupling("ConvTranspose", repair=_regrouped_transposed)
def _conv_transpose(crossing: Crossing) -> None:
    """Couple a transposed convolution, whose weight is (in out/group …)."""
    _places(crossing, 1)
    groups = crossing.node.get("group", 1)
    rows, outside = crossing.shape(1)[:2]
    read, made = crossing.labels(1, 0), crossing.labels(1, 1)
    if groups > 1 and (rows == groups or outside == 1):
        crossing.freeze(made, "stands beside others in each group of a grouped convolution")
        own = crossing.merge(crossing.labels(0, 1), read)
        made = None if own is None else np.repeat(tied(crossing, own, rows // groups), outside)
    else:
        if read is not None or crossing.labels(0, 1) is not None:
            crossing.contract(0, 1, read, weight=(1, 0))
        if groups > 1:
            assert read is not None
            alike(crossing, read, rows // groups)
            made = None if made is None else np.tile(made, groups)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    crossing.put(0, 1, made)


@coupling("CausalConvWithState")
def _causal_conv(crossing: Crossing) -> None:
    """Couple a depthwise convolution over time that keeps its last inputs as state."""
    fixed_why = "is slid over by a convolution's kernel"
    for slot in given(crossing):
        last = len(crossing.shape(slot)) - 1
        if last:
            crossing.freeze(crossing.labels(slot, last), fixed_why)
    channels = crossing.merge(crossing.labels(0, 1), crossing.labels(1, 0))
    if has(crossing, 2):
        channels = crossing.merge(channels, crossing.labels(2, 0))
    rows = crossing.labels(0, 0)
    if has(crossing, 3):
        channels = crossing.merge(channels, crossing.labels(3, 1))
        rows = crossing.merge(rows, crossing.labels(3, 0))
    for output in range(len(crossing.node.outputs)):
        crossing.put(output, 0, rows)
        crossing.put(output, 1, channels)


@coupling("DeformConv", repair=lambda cut: _regrouped(cut, 1))
def _deform_conv(crossing: Crossing) -> None:
    """Couple like Conv; channels that share an offset must stay equally many in each offset group."""
    for axis in range(2, len(crossing.shape(0))):
        crossing.freeze(crossing.labels(0, axis), _SLID)
        crossing.freeze(crossing.labels(1, axis), _KERNEL)
    fixed(crossing, 2, 4, why="says where a deformable convolution looks")
    own, shared = crossing.labels(0, 1), crossing.node.get("offset_group", 1)
    made = _grouped(crossing, 1)
    if own is not None and shared > 1:
        alike(crossing, own, len(own) // shared)
    if has(crossing, 3):
        made = crossing.merge(made, crossing.labels(3, 0))
    crossing.put(0, 1, made)
    crossing.put(0, 0, crossing.labels(0, 0))


@coupling("Col2Im")
def _col2im(crossing: Crossing) -> None:
    """Couple the columns of one channel; the overlapping columns are summed into its map."""
    fixed(crossing, 1, 2)
    labels = crossing.labels(0, 1)
    crossing.freeze(crossing.labels(0, positive(-1, len(crossing.shape(0)))), _SLID)
    crossing.put(0, 0, crossing.labels(0, 0))
    if labels is not None:
        size = len(labels) // crossing.out_shape()[1]
        crossing.put(0, 1, tied(crossing, labels, size))

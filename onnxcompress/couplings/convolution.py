"""Convolutions: input channels are summed over, output channels are made; groups must stay equally wide."""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import alike, each, fixed, given, has, is_read, tied
from onnxcompress.couplings._base import Crossing, Cut, coupling
from onnxcompress.couplings._convolutions import KERNEL, SLID, by_group, channels, positions, regrouped

_BESIDE = "stands beside others in each group of a grouped convolution"


@coupling("Conv", repair=lambda cut: regrouped(cut, 1))
def _conv(crossing: Crossing) -> None:
    positions(crossing, 1)
    made = channels(crossing, 1)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    crossing.put(0, 1, made)


@coupling("FusedConv", domain="com.microsoft", repair=lambda cut: regrouped(cut, 1))
def _fused_conv(crossing: Crossing) -> None:
    """Couple like Conv; a tensor added to the result is tied to it axis by axis."""
    for axis in range(2, len(crossing.shape(1))):
        crossing.freeze(crossing.labels(1, axis), KERNEL)
        crossing.freeze(crossing.labels(0, axis), SLID)
    made, rows = channels(crossing, 1), crossing.labels(0, 0)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    if has(crossing, 3):
        for axis, labels in each(crossing, 3):
            if axis > 1:
                crossing.freeze(labels, "is added to what a convolution's kernel slides over")
        made = crossing.merge(made, crossing.labels(3, 1))
        rows = crossing.merge(rows, crossing.labels(3, 0))
    crossing.put(0, 1, made)
    crossing.put(0, 0, rows)


def _regrouped(cut: Cut) -> None:
    groups = cut.node.get("group", 1)
    rows, outside = cut.shape(1)[:2]
    if by_group(groups, rows // groups, outside):
        cut.set_attribute("group", cut.cut_shape(0)[1] // (rows // groups))


@coupling("ConvTranspose", repair=_regrouped)
def _conv_transpose(crossing: Crossing) -> None:
    """Couple a transposed convolution, whose weight is (in out/group …)."""
    positions(crossing, 1)
    groups = crossing.node.get("group", 1)
    rows, outside = crossing.shape(1)[:2]
    read, made = crossing.labels(1, 0), crossing.labels(1, 1)
    if by_group(groups, rows // groups, outside):
        crossing.freeze(made, _BESIDE)
        own = crossing.merge(crossing.labels(0, 1), read)
        made = None if own is None else np.repeat(tied(crossing, own, rows // groups), outside)
    else:
        if read is not None or crossing.labels(0, 1) is not None:
            crossing.contract(0, 1, read, weight=(1, 0))
        if groups > 1 and read is not None:
            alike(crossing, read, rows // groups)
        made = None if made is None else np.tile(made, groups)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    crossing.put(0, 1, made)


@coupling("CausalConvWithState")
def _causal_conv(crossing: Crossing) -> None:
    """Couple a depthwise convolution over time that keeps its last inputs as state."""
    for slot in given(crossing, (0, 1, 3)):
        crossing.freeze(crossing.labels(slot, -1), SLID)
    made = crossing.merge(crossing.labels(0, 1), crossing.labels(1, 0))
    rows = crossing.labels(0, 0)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    if has(crossing, 3):
        made = crossing.merge(made, crossing.labels(3, 1))
        rows = crossing.merge(rows, crossing.labels(3, 0))
    for output in (0, 1):
        if is_read(crossing.node, output):
            crossing.put(output, 0, rows)
            crossing.put(output, 1, made)


@coupling("DeformConv", repair=lambda cut: regrouped(cut, 1))
def _deform_conv(crossing: Crossing) -> None:
    """Couple like Conv; the channels that share an offset must stay equally many."""
    for axis in range(2, len(crossing.shape(0))):
        crossing.freeze(crossing.labels(0, axis), SLID)
        crossing.freeze(crossing.labels(1, axis), KERNEL)
    rows = crossing.labels(0, 0)
    for slot in given(crossing, (2, 4)):
        for axis, labels in each(crossing, slot):
            if axis:
                crossing.freeze(labels, "says where a deformable convolution looks")
        rows = crossing.merge(rows, crossing.labels(slot, 0))
    own, shared = crossing.labels(0, 1), crossing.node.get("offset_group", 1)
    made = channels(crossing, 1)
    if own is not None and shared > 1:
        alike(crossing, own, len(own) // shared)
    if has(crossing, 3):
        made = crossing.merge(made, crossing.labels(3, 0))
    crossing.put(0, 1, made)
    crossing.put(0, 0, rows)


@coupling("Col2Im")
def _col2im(crossing: Crossing) -> None:
    """Tie the columns of one channel, whose overlapping patches are summed into its map."""
    fixed(crossing, 1, 2)
    crossing.freeze(crossing.labels(0, -1), SLID)
    crossing.put(0, 0, crossing.labels(0, 0))
    labels = crossing.labels(0, 1)
    if labels is not None:
        crossing.put(0, 1, tied(crossing, labels, len(labels) // crossing.out_shape()[1]))

"""Resize and Upsample: axes that keep their length pass, the others stay whole."""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import each, fixed, has, is_cut, numbers, positive
from onnxcompress.couplings._base import Crossing, Cut, coupling


def _sized(stage: Crossing | Cut) -> bool:
    """Tell whether the node is given sizes (scales otherwise)."""
    if stage.node.op_type == "Upsample" or stage.node.version < 11 or not has(stage, 3):
        return False
    sizes = stage.constant(3)
    return sizes is None or sizes.size > 0


def _scales(crossing: Crossing) -> list[float] | None:
    """Return the scale of each axis that is resized; None where they are unknown or sizes are given."""
    node = crossing.node
    if _sized(crossing):
        return None
    if node.op_type == "Upsample" and node.version < 9:
        given = node.get("scales")
        return list(given) if given else [1.0, 1.0, node.get("height_scale"), node.get("width_scale")]
    value = crossing.constant(2 if node.op_type == "Resize" and node.version >= 11 else 1)
    return None if value is None else [float(v) for v in np.ravel(value)]


def _chosen(stage: Crossing | Cut) -> list[int]:
    """Return the axes that the node resizes."""
    rank = len(stage.shape(0))
    return [positive(a, rank) for a in stage.node.get("axes") or range(rank)]


def _resized(cut: Cut) -> None:
    """Name the sizes left, where sizes are named for an axis that was cut."""
    axes = _chosen(cut)
    if not is_cut(cut) or not _sized(cut) or all(cut.keep_out(0, axis) is None for axis in axes):
        return
    if len(axes) == len(cut.shape(0)) and axes == sorted(axes):
        cut.set_target_shape(3)
        return
    sizes, after = numbers(cut, 3), cut.cut_out_shape()
    assert sizes is not None, "the rule freezes axes whose sizes are not known"
    cut.set_input(3, np.array([after[a] if cut.keep_out(0, a) is not None else s
                               for a, s in zip(axes, sizes, strict=True)], np.int64))  # fmt: skip


@coupling("Resize", "Upsample", repair=_resized)
def _resize(crossing: Crossing) -> None:
    fixed(crossing, 1, 2, 3)
    shape, target = crossing.shape(0), crossing.out_shape()
    axes, scales = _chosen(crossing), _scales(crossing)
    crop = crossing.node.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    whole = len(axes) == len(shape) and axes == sorted(axes)
    for axis, labels in each(crossing, 0):
        if axis in axes:
            known = not _sized(crossing) or whole or crossing.constant(3) is not None
            scale = 1.0 if scales is None else scales[axes.index(axis)]
            if shape[axis] != target[axis] or scale != 1.0 or crop or not known:
                crossing.freeze(labels, f"is resized by {crossing.node.op_type}")
                continue
        crossing.put(0, axis, labels)

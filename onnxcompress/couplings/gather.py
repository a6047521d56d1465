"""Gather and its relatives: constant indices pick labels, indices from data need every position."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.couplings._axes import each, fixed, positive
from onnxcompress.couplings._base import Crossing, Cut, Labels, coupling

_LOOKED_UP = "is looked up by an index that is only known when the model runs"


def _indices(stage: Crossing | Cut, size: int) -> Array | None:
    """Return constant indices counted from the front; None where they are computed."""
    value = stage.constant(1)
    if value is None:
        return None
    index = np.asarray(value, np.int64)
    return np.where(index < 0, index + size, index)


def _line(picked: Labels) -> int | None:
    """Return the axis of the indices along which what they pick varies; None where several do, or none."""
    for axis, size in enumerate(picked.shape):
        rows = np.moveaxis(picked, axis, 0).reshape(size, -1)
        if size > 1 and (rows == rows[:, :1]).all() and (rows != rows[:1]).any():
            return axis
    return 0 if picked.ndim == 1 else None


def _regathered(cut: Cut) -> None:
    """Number the positions that stay anew, and drop the indices of those that do not."""
    axis = positive(cut.node.get("axis", 0), len(cut.shape(0)))
    keep = cut.keep(0, axis)
    index = _indices(cut, cut.shape(0)[axis])
    if keep is None or index is None:
        return
    for line in range(index.ndim):
        stays = cut.keep_out(0, axis + line)
        if stays is not None:
            index = np.compress(stays, index, axis=line)
    before = cut.constant(1)
    assert before is not None
    cut.set_input(1, np.array((np.cumsum(keep) - 1)[index], before.dtype))


@coupling("Gather", repair=_regathered)
def _gather(crossing: Crossing) -> None:
    """Pick labels by constant indices; else freeze the axis, and let the indices' own labels pass."""
    shape, spread = crossing.shape(0), len(crossing.shape(1))
    along = positive(crossing.node.get("axis", 0), len(shape))
    index = _indices(crossing, shape[along])
    for axis, labels in each(crossing, 0):
        if axis != along:
            crossing.put(0, axis if axis < along else axis + spread - 1, labels)
        elif index is None:
            crossing.freeze(labels, _LOOKED_UP)
        else:
            picked = labels[index]
            line = _line(picked)
            if line is None:
                crossing.freeze(picked.ravel(), "is picked by itself by a Gather")
            else:
                rows = np.moveaxis(picked, line, 0).reshape(picked.shape[line], -1)
                crossing.put(0, along + line, rows[:, 0])
    if index is not None:
        fixed(crossing, 1)
    else:
        for axis, labels in each(crossing, 1):
            crossing.put(0, along + axis, labels)


@coupling("GatherElements")
def _gather_elements(crossing: Crossing) -> None:
    """Tie the axes that are not gathered along; of that one, the indices' labels pass."""
    shape, picked = crossing.shape(0), crossing.shape(1)
    along = positive(crossing.node.get("axis", 0), len(shape))
    for axis, size in enumerate(picked):
        own, index = crossing.labels(0, axis), crossing.labels(1, axis)
        if axis == along:
            crossing.freeze(own, _LOOKED_UP)
            crossing.put(0, axis, index)
        elif shape[axis] != size:
            crossing.freeze(own, "is gathered in part by GatherElements")
            crossing.freeze(index, "gathers a part by GatherElements")
        elif size > 1:
            crossing.put(0, axis, crossing.merge(own, index))


@coupling("GatherND")
def _gather_nd(crossing: Crossing) -> None:
    """Freeze the axes that are looked up; those behind them, and the indices' own, pass."""
    batch = crossing.node.get("batch_dims", 0)
    index = crossing.shape(1)
    depth = index[-1]
    for axis, labels in each(crossing, 0):
        if batch <= axis < batch + depth:
            crossing.freeze(labels, _LOOKED_UP)
        elif axis >= batch + depth:
            crossing.put(0, axis - batch - depth + len(index) - 1, labels)
    for axis, size in enumerate(index[:-1]):
        own = crossing.labels(1, axis)
        if axis >= batch:
            crossing.put(0, axis, own)
        elif size > 1:
            crossing.put(0, axis, crossing.merge(crossing.labels(0, axis), own))
    crossing.freeze(crossing.labels(1, -1), "is a coordinate of GatherND")

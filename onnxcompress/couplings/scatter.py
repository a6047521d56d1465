"""Scatter operators: whole slices at constant places pass, places that data chooses stay whole."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.couplings._axes import each, fixed, has, positive
from onnxcompress.couplings._base import Crossing, Cut, coupling

_WRITTEN = "is written to at positions that are only known when the model runs"
_TANGLED = "is written to at positions that follow no axis of what is written"


def _coordinates(stage: Crossing | Cut) -> Array | None:
    """Return constant coordinates counted from the front; None where they are computed."""
    value = stage.constant(1)
    if value is None:
        return None
    index = np.asarray(value, np.int64)
    return np.where(index < 0, index + np.array(stage.shape(0)[: index.shape[-1]]), index)


def _partners(index: Array) -> list[int | None]:
    """Return for each coordinate the axis of the index that alone it follows, and that it alone follows.

    −1: it is the same everywhere. None: it follows several axes, or shares one.
    """
    lead = index.ndim - 1
    follows = [
        {axis for axis in range(lead) if (index[..., k] != index[..., k].take([0], axis)).any()}
        for k in range(index.shape[-1])
    ]
    found: list[int | None] = []
    for k, axes in enumerate(follows):
        shared = any(axes & other for j, other in enumerate(follows) if j != k)
        found.append(-1 if not axes else next(iter(axes)) if len(axes) == 1 and not shared else None)
    return found


def _line(index: Array, coordinate: int, axis: int) -> Array:
    """Return a coordinate along the one axis that it follows."""
    return np.moveaxis(index[..., coordinate], axis, 0).reshape(index.shape[axis], -1)[:, 0]


def _renumbered(cut: Cut) -> None:
    """Drop coordinates of positions that were cut, and number the others anew."""
    index = _coordinates(cut)
    if index is None:
        return
    partners = _partners(index)
    for k, axis in enumerate(partners):
        keep = cut.keep(0, k)
        if keep is None or axis is None:
            continue
        if axis >= 0:
            index = np.compress(keep[_line(index, k, axis)], index, axis=axis)
        index[..., k] = (np.cumsum(keep) - 1)[index[..., k]]
    before = cut.constant(1)
    assert before is not None
    cut.set_input(1, index.astype(before.dtype))


@coupling("ScatterND", repair=_renumbered)
def _scatter_nd(crossing: Crossing) -> None:
    """Tie an axis of the data with that of the updates which alone says where along it they go."""
    data, index = crossing.shape(0), _coordinates(crossing)
    depth, lead = crossing.shape(1)[-1], len(crossing.shape(1)) - 1
    fixed(crossing, 1)
    partners = [None] * depth if index is None else _partners(index)
    written = {axis for axis in partners if axis is not None}
    for axis, labels in each(crossing, 2):
        if axis < lead and axis not in written:
            crossing.freeze(labels, _WRITTEN if index is None else _TANGLED)
    for axis, size in enumerate(data):
        own = crossing.labels(0, axis)
        if axis >= depth:
            own = crossing.merge(own, crossing.labels(2, axis - depth + lead)) if size > 1 else None
        else:
            partner = partners[axis]
            if index is None or partner is None:
                crossing.freeze(own, _WRITTEN if index is None else _TANGLED)
            elif partner < 0 and own is not None:
                crossing.freeze(own[np.unique(index[..., axis])], "is written to by itself by ScatterND")
            elif partner >= 0:
                place = _line(index, axis, partner)
                crossing.merge(None if own is None else own[place], crossing.labels(2, partner))
        crossing.put(0, axis, own)


@coupling("Scatter", "ScatterElements")
def _scatter_elements(crossing: Crossing) -> None:
    """Tie the axes that the updates cover whole; the one that is scattered along stays."""
    shape, updates = crossing.shape(0), crossing.shape(2)
    along = positive(crossing.node.get("axis", 0), len(shape))
    for axis, size in enumerate(shape):
        labels = [crossing.labels(slot, axis) for slot in (0, 1, 2)]
        if axis == along or updates[axis] != size:
            for own in labels:
                crossing.freeze(own, _WRITTEN)
        elif size > 1:
            crossing.put(0, axis, crossing.merge(crossing.merge(labels[0], labels[1]), labels[2]))


@coupling("TensorScatter")
def _tensor_scatter(crossing: Crossing) -> None:
    """Tie all axes of the cache and its update but the one along which steps are written."""
    shape = crossing.shape(0)
    along = positive(crossing.node.get("axis", -2), len(shape))
    for axis, size in enumerate(shape):
        if axis == along:
            crossing.freeze(crossing.labels(0, axis), _WRITTEN)
            crossing.freeze(crossing.labels(1, axis), _WRITTEN)
        elif size > 1:
            labels = crossing.merge(crossing.labels(0, axis), crossing.labels(1, axis))
            if axis == 0 and has(crossing, 2):
                labels = crossing.merge(labels, crossing.labels(2, 0))
            crossing.put(0, axis, labels)

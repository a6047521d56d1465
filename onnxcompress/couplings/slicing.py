"""Concat, Split and Slice: joining axes and cutting them apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxcompress.couplings._axes import each, fixed, given, has, is_read, kept_in, numbers, positive, tied
from onnxcompress.couplings._base import Crossing, Cut, Labels, coupling


@coupling("Concat")
def _concat(crossing: Crossing) -> None:
    """Join labels along the axis, tie those of the other axes; a part without labels is frozen."""
    target, slots = crossing.out_shape(), given(crossing)
    along = positive(crossing.node.get("axis", 1), len(target))
    for axis, size in enumerate(target):
        if size == 1:
            continue
        parts = [crossing.labels(slot, axis) for slot in slots]
        if axis != along:
            labels = parts[0]
            for part in parts[1:]:
                labels = crossing.merge(labels, part)
            crossing.put(0, axis, labels)
        elif any(part is not None for part in parts):
            crossing.put(0, axis, np.concatenate([
                _unknown(crossing, crossing.shape(slot)[axis]) if part is None else part
                for slot, part in zip(slots, parts, strict=True)
            ]))  # fmt: skip


def _unknown(crossing: Crossing, size: int) -> Labels:
    labels = crossing.fresh(size)
    crossing.freeze(labels, "stands beside others in a Concat and comes from where nothing can be cut")
    return labels


def _sizes(stage: Crossing | Cut, length: int) -> list[int] | None:
    """Return the length of each part; None where it is unknown."""
    sizes = numbers(stage, 1, "split")
    if sizes is not None:
        return sizes
    if has(stage, 1):
        return None
    count = stage.node.get("num_outputs") or len(stage.node.outputs)
    chunk = -(-length // count)
    return [min(chunk, max(length - k * chunk, 0)) for k in range(count)]


def _resplit(cut: Cut) -> None:
    """Say the length of each part, which equal division would no longer give."""
    axis = positive(cut.node.get("axis", 0), len(cut.shape(0)))
    keep = cut.keep(0, axis)
    sizes = _sizes(cut, cut.shape(0)[axis])
    if keep is None or sizes is None:
        return
    ends = np.cumsum([0, *sizes])
    after = [kept_in(keep, int(a), int(b)) for a, b in pairwise(ends)]
    if cut.node.version >= 13 or has(cut, 1):
        cut.set_input(1, np.array(after, np.int64))
        cut.set_attribute("num_outputs", None)
    else:
        cut.set_attribute("split", after)


@coupling("Split", repair=_resplit)
def _split(crossing: Crossing) -> None:
    fixed(crossing, 1)
    shape = crossing.shape(0)
    along = positive(crossing.node.get("axis", 0), len(shape))
    outputs = [k for k in range(len(crossing.node.outputs)) if is_read(crossing.node, k)]
    for axis, labels in each(crossing, 0):
        sizes = _sizes(crossing, shape[axis]) if axis == along else None
        if axis == along and sizes is None:
            crossing.freeze(labels, "is split at places that are only known when the model runs")
            continue
        ends = np.cumsum([0, *(sizes or [])])
        for k in outputs:
            crossing.put(k, axis, labels if sizes is None else labels[ends[k] : ends[k + 1]])


@dataclass(frozen=True)
class _Taken:
    """What a Slice takes of one axis: its place among the bounds, and the positions in order."""

    place: int
    positions: range


def _range(start: int, end: int, step: int, size: int) -> range:
    """Return the positions taken; going backwards, a start before the first element means the first."""
    start, end = (v + size if v < 0 else v for v in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _axes(stage: Crossing | Cut, rank: int) -> list[int] | None:
    """Return the axes that are sliced; None where they are unknown."""
    axes = numbers(stage, 3, "axes")
    if axes is None and has(stage, 3):
        return None
    if axes is None:
        starts = stage.node.get("starts") if stage.node.version < 10 else None
        count = len(starts) if starts is not None else stage.shape(1)[0]
        axes = list(range(count))
    return [positive(a, rank) for a in axes]


def _taken(stage: Crossing | Cut) -> dict[int, _Taken] | None:
    """Return axis -> what is taken of it; None where the bounds are unknown."""
    shape = stage.shape(0)
    axes = _axes(stage, len(shape))
    starts, ends, steps = numbers(stage, 1, "starts"), numbers(stage, 2, "ends"), numbers(stage, 4)
    if axes is None or starts is None or ends is None or (steps is None and has(stage, 4)):
        return None
    steps = [1] * len(starts) if steps is None else steps
    bounds = zip(axes, starts, ends, steps, strict=True)
    return {a: _Taken(i, _range(s, e, d, shape[a])) for i, (a, s, e, d) in enumerate(bounds)}


def _rebound(cut: Cut) -> None:
    """Move the bounds to where what they took now lies."""
    taken = _taken(cut)
    starts, ends = numbers(cut, 1, "starts"), numbers(cut, 2, "ends")
    cut_axes = [axis for axis in (taken or {}) if cut.keep(0, axis) is not None]
    if taken is None or starts is None or ends is None or not cut_axes:
        return
    for axis in cut_axes:
        keep, part = cut.keep(0, axis), taken[axis]
        assert keep is not None
        place = np.cumsum(keep) - 1
        stay = [int(place[i]) for i in part.positions if keep[i]]
        step = part.positions.step
        start, end = (stay[0], stay[-1] + np.sign(step)) if stay else (0, 0)
        assert list(range(start, end, step)) == stay, "the rule keeps what is taken evenly spaced"
        starts[part.place] = start
        # an end before the first position cannot be written as −1, which counts from the back
        ends[part.place] = int(end) if end >= 0 else -int(keep.sum()) - 1
    if cut.node.version < 10:
        cut.set_attribute("starts", starts)
        cut.set_attribute("ends", ends)
        return
    for slot, values in ((1, starts), (2, ends)):
        before = cut.constant(slot)
        assert before is not None
        cut.set_input(slot, np.array(values, before.dtype))


@coupling("Slice", repair=_rebound)
def _slice(crossing: Crossing) -> None:
    """Take labels as elements are taken; with a stride only whole periods of it can be cut."""
    fixed(crossing, 1, 2, 3, 4)
    shape, target = crossing.shape(0), crossing.out_shape()
    axes, taken, steps = _axes(crossing, len(shape)), _taken(crossing), numbers(crossing, 4)
    plain = not has(crossing, 4) or (steps is not None and all(step == 1 for step in steps))
    for axis, labels in each(crossing, 0):
        if axes is not None and axis not in axes:
            crossing.put(0, axis, labels)
        elif taken is None:
            # bounds computed from sizes often take a static axis whole
            if axes is not None and plain and shape[axis] == target[axis]:
                crossing.put(0, axis, labels)
            else:
                crossing.freeze(labels, "is sliced at places that are only known when the model runs")
        else:
            _take(crossing, axis, labels, taken[axis].positions)


def _take(crossing: Crossing, axis: int, labels: Labels, positions: range) -> None:
    stride = abs(positions.step)
    if stride > 1 and len(positions) > 1:
        if len(labels) % stride:
            crossing.freeze(labels, f"is sliced with a stride of {stride} that does not divide its length")
            return
        tied(crossing, labels, stride)
    crossing.put(0, axis, labels[np.array(positions, np.int64)])

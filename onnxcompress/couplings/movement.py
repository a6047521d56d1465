"""Operators that rearrange elements: most are executed on the labels, some only need their axes told."""

from __future__ import annotations

import numpy as np

from onnxcompress.couplings._axes import alike, each, fixed, is_cut, numbers, passed, positive, tied
from onnxcompress.couplings._base import Crossing, Cut, coupling, movement

movement("Identity", "Flatten", "Transpose", "Squeeze", "Unsqueeze")


@coupling("DepthToSpace")
def _depth_to_space(crossing: Crossing) -> None:
    """Tie the channels that fill one block of one map; blocks are as high and wide as they are."""
    _pass_rows(crossing)
    labels, cells = crossing.labels(0, 1), crossing.node.attributes["blocksize"] ** 2
    if labels is None:
        return
    maps = len(labels) // cells
    if crossing.node.get("mode", "DCR") == "DCR":
        crossing.put(0, 1, alike(crossing, labels, maps)[:maps])
    else:
        crossing.put(0, 1, tied(crossing, labels, cells))


@coupling("SpaceToDepth")
def _space_to_depth(crossing: Crossing) -> None:
    """Let one channel make as many as a block has cells."""
    _pass_rows(crossing)
    labels, cells = crossing.labels(0, 1), crossing.node.attributes["blocksize"] ** 2
    if labels is not None:
        deep = crossing.node.get("mode", "DCR") == "DCR"
        crossing.put(0, 1, np.tile(labels, cells) if deep else np.repeat(labels, cells))


def _pass_rows(crossing: Crossing) -> None:
    """Pass the batch axis, and freeze the axes that blocks lie along."""
    crossing.put(0, 0, crossing.labels(0, 0))
    for axis in (2, 3):
        crossing.freeze(crossing.labels(0, axis), f"is laid out in blocks by {crossing.node.op_type}")


def _reshaped(cut: Cut) -> None:
    if not is_cut(cut):
        return
    if cut.node.version >= 5:
        cut.set_target_shape(1)
        return
    shape = list(cut.node.attributes["shape"])
    after = cut.cut_out_shape()
    cut.set_attribute("shape", [v if cut.is_dynamic(0, k) else after[k] for k, v in enumerate(shape)])


movement("Reshape", repair=_reshaped)


def _expanded(cut: Cut) -> None:
    if is_cut(cut):
        cut.set_target_shape(1)


@coupling("Expand", repair=_expanded)
def _expand(crossing: Crossing) -> None:
    """Pass labels on; copies of one element are like each other and can be any number."""
    fixed(crossing, 1)
    shape, target = crossing.shape(0), crossing.out_shape()
    new = len(target) - len(shape)
    for axis, size in enumerate(target):
        if size > 1:
            copied = axis < new or shape[axis - new] == 1
            crossing.put(0, axis, crossing.fresh(size) if copied else crossing.labels(0, axis - new))


def _tiled(cut: Cut) -> None:
    if not is_cut(cut):
        return
    repeats = numbers(cut, 1)
    if repeats is None or cut.node.version < 6:
        return
    shape, after = cut.shape(0), cut.cut_out_shape()
    counts = [after[axis] if shape[axis] == 1 else n for axis, n in enumerate(repeats)]
    cut.set_input(1, np.array(counts, np.int64))


@coupling("Tile", repair=_tiled)
def _tile(crossing: Crossing) -> None:
    """Repeat labels; copies of one element are like each other and can be any number."""
    fixed(crossing, 1, 2)
    shape, target = crossing.shape(0), crossing.out_shape()
    known = crossing.node.version >= 6 and crossing.constant(1) is not None
    for axis, size in enumerate(target):
        labels = crossing.labels(0, axis)
        if labels is not None:
            crossing.put(0, axis, np.tile(labels, size // shape[axis]))
        elif shape[axis] == 1 and size > 1 and known:
            crossing.put(0, axis, crossing.fresh(size))


@coupling("Trilu")
def _trilu(crossing: Crossing) -> None:
    rank = len(crossing.shape(0))
    passed(crossing, (rank - 2, rank - 1), "is cut to a triangle by its position")
    fixed(crossing, 1)


@coupling("ReverseSequence")
def _reverse_sequence(crossing: Crossing) -> None:
    time, batch = crossing.node.get("time_axis", 0), crossing.node.get("batch_axis", 1)
    passed(crossing, (time, batch), "is put in another order that depends on the data")
    fixed(crossing, 1)


@coupling("Crop", "DynamicSlice")
def _cropped(crossing: Crossing) -> None:
    """Pass axes whose length stays; the others are cut by positions."""
    fixed(crossing, 1, 2, 3)
    shape, target = crossing.shape(0), crossing.out_shape()
    changed = {axis for axis, size in enumerate(shape) if size != target[axis]}
    passed(crossing, changed, f"is cut to a part by {crossing.node.op_type}")


def _chosen(stage: Crossing | Cut) -> list[int]:
    """Return the axes that CenterCropPad is given lengths for."""
    rank = len(stage.shape(0))
    return [positive(a, rank) for a in stage.node.get("axes") or range(rank)]


def _recropped(cut: Cut) -> None:
    """Name the lengths left; the rule passes no axis whose length the node changes."""
    sizes, after = numbers(cut, 1), cut.cut_out_shape()
    if sizes is not None and is_cut(cut):
        named = zip(_chosen(cut), sizes, strict=True)
        lengths = [after[axis] if cut.keep_out(0, axis) is not None else size for axis, size in named]
        cut.set_input(1, np.array(lengths, np.int64))


@coupling("CenterCropPad", repair=_recropped)
def _center_crop_pad(crossing: Crossing) -> None:
    """Pass axes whose length stays; the others are cut or padded by positions."""
    fixed(crossing, 1)
    shape, target = crossing.shape(0), crossing.out_shape()
    named = set(_chosen(crossing)) if numbers(crossing, 1) is None else set()
    changed = {axis for axis, size in enumerate(shape) if size != target[axis]}
    passed(crossing, changed | named, "is cut or padded by CenterCropPad")


def _along(crossing: Crossing | Cut, rank: int) -> list[int] | None:
    """Return the axes that the pads are given for; None where they are unknown."""
    if crossing.node.version < 18 or len(crossing.source.inputs) < 4 or crossing.source.inputs[3] is None:
        return list(range(rank))
    axes = numbers(crossing, 3)
    return None if axes is None else [positive(a, rank) for a in axes]


def _pads(crossing: Crossing | Cut, rank: int) -> dict[int, tuple[int, int]] | None:
    """Return axis -> (before, after); None where the pads are unknown."""
    amounts, axes = numbers(crossing, 1, "pads", "paddings"), _along(crossing, rank)
    if amounts is None or axes is None:
        return None
    return {axis: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}


def _repadded(cut: Cut) -> None:
    """Pad, or crop, by as many positions as stay of those that were padded or cropped."""
    rank = len(cut.shape(0))
    pads, axes = _pads(cut, rank), _along(cut, rank)
    if pads is None or axes is None or not is_cut(cut):
        return
    for axis, (before, after) in pads.items():
        inside, outside = cut.keep(0, axis), cut.keep_out(0, axis)
        if inside is None and outside is None:
            continue
        kept_in = np.ones(cut.shape(0)[axis], bool) if inside is None else inside
        kept_out = np.ones(cut.out_shape()[axis], bool) if outside is None else outside
        first = kept_out[:before].sum() if before >= 0 else -kept_in[:-before].sum()
        end = len(kept_out) - after
        last = kept_out[end:].sum() if after >= 0 else -kept_in[len(kept_in) + after :].sum()
        pads[axis] = int(first), int(last)
    amounts = [pads[a][0] for a in axes] + [pads[a][1] for a in axes]
    names = [name for name in ("pads", "paddings") if cut.node.get(name) is not None]
    if names:
        cut.set_attribute(names[0], amounts)
    else:
        cut.set_input(1, np.array(amounts, np.int64))


@coupling("Pad", repair=_repadded)
def _pad(crossing: Crossing) -> None:
    """Give padded positions labels of their own: a repair can pad by any number."""
    fixed(crossing, 1, 2, 3)
    shape, target = crossing.shape(0), crossing.out_shape()
    pads = _pads(crossing, len(shape))
    for axis, labels in each(crossing, 0):
        if pads is None:
            before, after = (0, 0) if shape[axis] == target[axis] else (None, None)
        else:
            before, after = pads.get(axis, (0, 0))
        if before == after == 0:
            crossing.put(0, axis, labels)
        elif before is None or after is None:
            crossing.freeze(labels, "is padded by an amount that is only known when the model runs")
        elif crossing.node.get("mode", "constant") != "constant":
            crossing.freeze(labels, f"is padded with copies of its neighbours ({crossing.node.get('mode')})")
        else:
            inner = labels[max(-before, 0) : len(labels) - max(-after, 0)]
            parts = [crossing.fresh(max(before, 0)), inner, crossing.fresh(max(after, 0))]
            crossing.put(0, axis, np.concatenate(parts))

"""Pooling: channels pass, positions stay."""

from __future__ import annotations

from onnxcompress.couplings._axes import each, fixed, is_read, passed
from onnxcompress.couplings._base import Crossing, Cut, coupling


def _pooled(crossing: Crossing, outputs: tuple[int, ...] = (0,)) -> None:
    places = range(2, len(crossing.shape(0)))
    passed(crossing, places, f"is pooled over by {crossing.node.op_type}", outputs=outputs)


@coupling("AveragePool", "LpPool", "GlobalMaxPool")
def _pool(crossing: Crossing) -> None:
    _pooled(crossing)


@coupling("MaxPool")
def _max_pool(crossing: Crossing) -> None:
    """Pass channels; positions it tells count over all channels, which only MaxUnpool can follow."""
    if not is_read(crossing.node, 1):
        _pooled(crossing)
        return
    uses = list(crossing.source.outputs[1].uses())
    if all(node.op_type == "MaxUnpool" and slot == 1 for node, slot in uses) and not (
        crossing.source.outputs[1].is_graph_output()
    ):
        _pooled(crossing, (0, 1))
    else:
        crossing.freeze_inputs("is counted by the positions that MaxPool tells")


def _unpooled(cut: Cut) -> None:
    if cut.keep_out(0, 1) is not None and len(cut.source.inputs) > 2 and cut.source.inputs[2] is not None:
        cut.set_target_shape(2)


@coupling("MaxUnpool", repair=_unpooled)
def _max_unpool(crossing: Crossing) -> None:
    """Tie channels with those of the positions: both must be the same to mean the same places."""
    fixed(crossing, 2)
    for axis in (0, 1):
        if crossing.shape(0)[axis] > 1:
            crossing.put(0, axis, crossing.merge(crossing.labels(0, axis), crossing.labels(1, axis)))
    for slot in (0, 1):
        for axis, labels in each(crossing, slot):
            if axis > 1:
                crossing.freeze(labels, "is a position that MaxUnpool fills")


@coupling("GlobalAveragePool")
def _global_average_pool(crossing: Crossing) -> None:
    for axis, labels in each(crossing, 0):
        if axis < 2:
            crossing.put(0, axis, labels)
        else:
            crossing.mix(labels)


@coupling("GlobalLpPool")
def _global_lp_pool(crossing: Crossing) -> None:
    for axis, labels in each(crossing, 0):
        if axis < 2:
            crossing.put(0, axis, labels)
        else:
            crossing.contract(0, axis, None)


@coupling("RoiAlign", "MaxRoiPool")
def _roi(crossing: Crossing) -> None:
    """Pass channels; the output's first axis counts regions."""
    for axis, labels in each(crossing, 0):
        if axis == 1:
            crossing.put(0, 1, labels)
        else:
            crossing.freeze(labels, f"is sampled from by {crossing.node.op_type}")
    fixed(crossing, 1, 2)


@coupling("GridSample")
def _grid_sample(crossing: Crossing) -> None:
    """Pass channels, and the positions of the grid."""
    rank = len(crossing.shape(0))
    for axis, labels in each(crossing, 0):
        if axis == 1:
            crossing.put(0, 1, labels)
        elif axis > 1:
            crossing.freeze(labels, "is sampled from by GridSample")
    for axis in range(1, rank - 1):
        crossing.put(0, axis + 1, crossing.labels(1, axis))
    crossing.freeze(crossing.labels(1, rank - 1), "is a coordinate of GridSample")
    if crossing.shape(0)[0] > 1:
        crossing.put(0, 0, crossing.merge(crossing.labels(0, 0), crossing.labels(1, 0)))

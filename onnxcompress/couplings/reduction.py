"""Reductions: a sum is a site without weight, a mean mixes, an extreme needs every value."""

from __future__ import annotations

from onnxcompress.couplings._axes import each, fixed, has, numbers, passed, positive
from onnxcompress.couplings._base import Crossing, coupling

_SUMS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSum", "ReduceSumSquare")
_REST = ("ReduceLogSumExp", "ReduceMax", "ReduceMin", "ReduceProd")


def _reduced(crossing: Crossing, rank: int) -> set[int] | None:
    """Return the axes that are reduced; None where they are unknown."""
    axes = numbers(crossing, 1, "axes")
    if axes is None and has(crossing, 1):
        return None
    if not axes:
        return set() if crossing.node.get("noop_with_empty_axes", 0) else set(range(rank))
    return {positive(a, rank) for a in axes}


@coupling(*_SUMS, *_REST, "ReduceMean")
def _reduce(crossing: Crossing) -> None:
    type_, rank = crossing.node.op_type, len(crossing.shape(0))
    fixed(crossing, 1)
    axes = _reduced(crossing, rank)
    if axes is None:
        crossing.freeze_inputs(f"is reduced by a {type_} over axes that are only known when the model runs")
        return
    for axis, labels in each(crossing, 0):
        if axis not in axes:
            gone = 0 if crossing.node.get("keepdims", 1) else sum(a < axis for a in axes)
            crossing.put(0, axis - gone, labels)
        elif type_ in _SUMS:
            # zero adds nothing
            crossing.contract(0, axis, None)
        elif type_ == "ReduceMean":
            crossing.mix(labels)
        else:
            crossing.freeze(labels, f"is reduced over by a {type_}, to which every value contributes")


@coupling("ArgMax", "ArgMin")
def _arg(crossing: Crossing) -> None:
    rank = len(crossing.shape(0))
    along = positive(crossing.node.get("axis", 0), rank)
    for axis, labels in each(crossing, 0):
        if axis == along:
            crossing.freeze(labels, f"is numbered by {crossing.node.op_type}")
        else:
            crossing.put(0, axis if crossing.node.get("keepdims", 1) or axis < along else axis - 1, labels)


@coupling("CumSum", "CumProd")
def _running(crossing: Crossing) -> None:
    fixed(crossing, 1)
    axis = numbers(crossing, 1)
    rank = len(crossing.shape(0))
    stop = set(range(rank)) if axis is None else {positive(axis[0], rank)}
    passed(crossing, stop, f"is accumulated along by {crossing.node.op_type}")

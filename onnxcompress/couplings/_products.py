"""The coupling of matrix products, plain, fused and of integers."""

from __future__ import annotations

from collections.abc import Callable

from onnxcompress.couplings._axes import summed
from onnxcompress.couplings._base import Crossing, Labels

Axis = tuple[int, int]
"""(slot, axis) of an input."""


def product(
    crossing: Crossing,
    first: list[Axis],
    second: list[Axis],
    total: Callable[[Axis, Axis], None] | None = None,
) -> None:
    """Couple a matrix product of operands given by their axes: batch axes are tied, the outer ones pass.

    Args:
        crossing: the node.
        first: batch axes, outer, inner; of rank 1 only the inner.
        second: batch axes, inner, outer; of rank 1 only the inner.
        total: what to do about the two inner axes; None notes a site.
    """
    inner = first[-1], second[-2 if len(second) > 1 else -1]
    if total is None:
        summed(crossing, *inner)
    else:
        total(*inner)
    outer = [operand[at] for operand, at in ((first, -2), (second, -1)) if len(operand) > 1]
    batch = len(crossing.out_shape()) - len(outer)
    for axis in range(batch):
        labels: Labels | None = None
        met = False
        for places in (first[:-2], second[:-2]):
            at = axis - (batch - len(places))
            if at < 0 or crossing.shape(places[at][0])[places[at][1]] == 1:
                continue
            here = crossing.labels(*places[at])
            labels, met = crossing.merge(labels, here) if met else here, True
        crossing.put(0, axis, labels)
    for axis, place in enumerate(outer, batch):
        crossing.put(0, axis, crossing.labels(*place))

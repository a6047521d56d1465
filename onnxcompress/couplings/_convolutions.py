"""What plain, fused, deformed and quantised convolutions share: groups, kernels, positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxcompress.couplings._axes import alike, tied
from onnxcompress.couplings._base import Crossing, Cut, Labels
from onnxcompress.ops._base import Node, Shape

KERNEL = "is a position of a convolution's kernel"
SLID = "is slid over by a convolution's kernel"
_BESIDE = "stands beside others in each group of a grouped convolution"

Sum = Callable[[Labels | None], None]
"""Called with the weight's labels along the input channels, one for each of them: the axis summed over."""


def by_group(groups: int, inside: int, outside: int) -> bool:
    """Tell whether a whole group is the unit that is cut: it has one input or one output channel."""
    return groups > 1 and 1 in (inside, outside)


def _pointwise(node: Node, kernel: Shape) -> bool:
    """Tell whether each position is computed from itself alone."""
    ones = (*kernel, *(node.get("strides") or ()))
    return all(v == 1 for v in ones) and not any(node.get("pads") or ()) and not node.get("output_shape")


def positions(crossing: Crossing, weight: int) -> None:
    """Freeze kernel positions, and carry or freeze the axes of the input that are no channels."""
    kernel = crossing.shape(weight)[2:]
    pointwise = _pointwise(crossing.node, kernel)
    for axis in range(2, 2 + len(kernel)):
        crossing.freeze(crossing.labels(weight, axis), KERNEL)
        if pointwise:
            crossing.put(0, axis, crossing.labels(0, axis))
        else:
            crossing.freeze(crossing.labels(0, axis), SLID)
    crossing.put(0, 0, crossing.labels(0, 0))


def channels(crossing: Crossing, weight: int, total: Sum | None = None) -> Labels | None:
    """Couple the channels of a convolution with a weight (out in/group …); return the output's.

    Where a group has one input or one output channel, groups are cut whole and their number changes.
    Otherwise position j is the same channel in all groups, and their number stays.

    Args:
        crossing: the node.
        weight: slot of the weight.
        total: what to do about the sum over input channels; None notes a site.
    """
    groups = crossing.node.get("group", 1)
    out, inside = crossing.shape(weight)[:2]
    made, read = crossing.labels(weight, 0), crossing.labels(weight, 1)
    if by_group(groups, inside, out // groups):
        crossing.freeze(read, _BESIDE)
        own = crossing.labels(0, 1)
        one = None if own is None else np.repeat(tied(crossing, own, inside), out // groups)
        return crossing.merge(one, made)
    if read is not None and groups > 1:
        read = np.tile(read, groups)
    if total is not None:
        total(read)
    elif read is not None or crossing.labels(0, 1) is not None:
        crossing.contract(0, 1, read, weight=(weight, 1))
    return made if made is None or groups == 1 else alike(crossing, made, out // groups)


def regrouped(cut: Cut, weight: int) -> None:
    """Say how many groups are left, where groups were cut whole."""
    groups = cut.node.get("group", 1)
    out, inside = cut.shape(weight)[:2]
    if by_group(groups, inside, out // groups):
        cut.set_attribute("group", cut.cut_shape(0)[1] // inside)

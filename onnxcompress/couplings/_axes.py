"""What rules of many families share: passing axes on, broadcasting, constant arguments, contractions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.couplings._base import Crossing, Cut, Labels
from onnxcompress.ops._base import Node

SIZES = "holds sizes or positions, not channels"
"""Why labels of an argument such as a shape, a pad or an index are frozen."""


def positive(axis: int, rank: int) -> int:
    """Return ``axis`` counted from the front."""
    return axis + rank if axis < 0 else axis


def is_read(node: Node, output: int) -> bool:
    """Tell whether the node has this output and something reads it."""
    return output < len(node.outputs) and node.outputs[output]


def given(crossing: Crossing, slots: Iterable[int] | None = None) -> list[int]:
    """Return those of the slots (default: all) that have an input."""
    wanted = range(crossing.inputs) if slots is None else slots
    return [slot for slot in wanted if slot < crossing.inputs and crossing.present(slot)]


def each(crossing: Crossing, slot: int) -> Iterator[tuple[int, Labels]]:
    """Yield (axis, labels) for every labelled axis of an input."""
    for axis in range(len(crossing.shape(slot))):
        labels = crossing.labels(slot, axis)
        if labels is not None:
            yield axis, labels


def fixed(crossing: Crossing, *slots: int, why: str = SIZES) -> None:
    """Freeze every label of the given inputs."""
    for slot in given(crossing, slots):
        for _, labels in each(crossing, slot):
            crossing.freeze(labels, why)


def passed(
    crossing: Crossing,
    stop: Collection[int] = (),
    why: str = "",
    slot: int = 0,
    outputs: Sequence[int] = (0,),
) -> None:
    """Give outputs of the input's rank its labels, axis by axis; axes in ``stop`` are frozen instead."""
    for axis, labels in each(crossing, slot):
        if axis in stop:
            crossing.freeze(labels, why)
            continue
        for output in outputs:
            if output == 0 or is_read(crossing.node, output):
                crossing.put(output, axis, labels)


def spread(crossing: Crossing, operands: Sequence[tuple[int, int]], output: int = 0) -> None:
    """Tie the operands' axes as broadcasting aligns them, and give the output their labels.

    Args:
        crossing: the node.
        operands: (slot, trailing): an input whose last axis lies ``trailing`` axes before the output's.
        output: which output.
    """
    shape = crossing.out_shape(output)
    rank = len(shape)
    for axis in range(rank):
        if shape[axis] == 1:
            continue
        labels: Labels | None = None
        first = True
        for slot, trailing in operands:
            own = crossing.shape(slot)
            at = axis - (rank - trailing - len(own))
            if not 0 <= at < len(own) or own[at] == 1:
                continue
            here = crossing.labels(slot, at)
            labels = here if first else crossing.merge(labels, here)
            first = False
        crossing.put(output, axis, labels)


def broadcast(crossing: Crossing, slots: Iterable[int] | None = None, output: int = 0) -> None:
    """Tie inputs (default: all) axis by axis as NumPy broadcasts them, and label the output."""
    spread(crossing, [(slot, 0) for slot in given(crossing, slots)], output)


def summed(crossing: Crossing, first: tuple[int, int], second: tuple[int, int]) -> None:
    """Contract an axis of one operand with an axis of another; the site is on the one data reaches.

    Two activations are tied, with the site on the first; where only one of them has labels they are frozen.
    """
    mine, other = crossing.labels(*first), crossing.labels(*second)
    if mine is None and other is None:
        return
    weights = [crossing.data_free(slot) for slot, _ in (first, second)]
    if weights == [True, False]:
        first, second, mine, other = second, first, other, mine
    if other is None or (mine is None and not any(weights)):
        crossing.freeze(mine if other is None else other, _UNKNOWN)
    else:
        crossing.contract(*first, other, weight=second)


_UNKNOWN = "is multiplied with a value whose channels are unknown"


def tied(crossing: Crossing, labels: Labels, size: int) -> Labels:
    """Tie each run of ``size`` neighbours; return one label for each run."""
    runs: Array = labels.reshape(-1, size)
    for k in range(1, size):
        crossing.merge(runs[:, 0], runs[:, k])
    return runs[:, 0]


def alike(crossing: Crossing, labels: Labels, size: int) -> Labels:
    """Tie equal positions of all runs of length ``size``, so that all runs stay equally long."""
    runs: Array = labels.reshape(-1, size)
    for run in runs[1:]:
        crossing.merge(runs[0], run)
    return labels


def whole_groups(groups: int, channels: int) -> bool:
    """Tell whether what normalises groups of channels loses whole groups: exact, and as fine where many."""
    return groups > 1 and groups >= channels // groups


def numbers(stage: Crossing | Cut, slot: int, *attributes: str) -> list[int] | None:
    """Return integers given as a constant input, or else as an attribute; None where unknown or not given."""
    for name in attributes:
        if stage.node.get(name) is not None:
            return [int(v) for v in np.ravel(stage.node.get(name))]
    if not has(stage, slot):
        return None
    value = stage.constant(slot)
    return None if value is None else [int(v) for v in np.ravel(value)]


def has(stage: Crossing | Cut, slot: int) -> bool:
    """Tell whether the node has an input at ``slot``."""
    inputs = stage.source.inputs
    return slot < len(inputs) and inputs[slot] is not None


def kept_in(keep: Array | None, start: int, stop: int) -> int:
    """Return how many of the positions ``start`` to ``stop`` (excluded) stay; None keeps all."""
    return stop - start if keep is None else int(np.count_nonzero(keep[start:stop]))


def is_cut(cut: Cut, output: int = 0) -> bool:
    """Tell whether the cut shortened an axis of an output."""
    return any(cut.keep_out(output, axis) is not None for axis in range(len(cut.out_shape(output))))

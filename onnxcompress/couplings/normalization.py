"""Normalisations: over a channel alone they tie its parameters, over channels together they mix them."""

from __future__ import annotations

from onnxcompress.couplings._axes import (
    alike,
    broadcast,
    each,
    given,
    is_read,
    passed,
    positive,
    tied,
    whole_groups,
)
from onnxcompress.couplings._base import Crossing, Cut, coupling
from onnxcompress.ops.normalization import by_its_batch


@coupling("BatchNormalization")
def _batch_normalization(crossing: Crossing) -> None:
    node, rank = crossing.node, len(crossing.shape(0))
    training = by_its_batch(node)
    if node.version < 9 and not node.get("spatial", 1):
        _per_element(crossing)
        return
    channels = crossing.labels(0, 1)
    if crossing.shape(0)[1] > 1:
        for slot in given(crossing, (1, 2, 3, 4)):
            channels = crossing.merge(channels, crossing.labels(slot, 0))
    for axis, labels in each(crossing, 0):
        if axis != 1 and training:
            crossing.freeze(labels, "is averaged over by a BatchNormalization in training mode")
        elif axis != 1:
            crossing.put(0, axis, labels)
    if rank > 1:
        crossing.put(0, 1, channels)
    for output in range(1, len(node.outputs)):
        if is_read(node, output):
            crossing.put(output, 0, channels)


def _per_element(crossing: Crossing) -> None:
    """Couple the first versions' statistics of each element, shaped like one example."""
    broadcast(crossing)
    for output in range(1, len(crossing.node.outputs)):
        if is_read(crossing.node, output):
            for axis in range(len(crossing.out_shape(output))):
                crossing.put(output, axis, crossing.labels(0, axis + 1))


@coupling("InstanceNormalization")
def _instance_normalization(crossing: Crossing) -> None:
    """Tie a channel's parameters; positions along the other axes are normalised together."""
    channels = crossing.labels(0, 1)
    if crossing.shape(0)[1] > 1:
        for slot in (1, 2):
            channels = crossing.merge(channels, crossing.labels(slot, 0))
    for axis, labels in each(crossing, 0):
        if axis != 1:
            crossing.put(0, axis, labels)
        if axis > 1:
            crossing.mix(labels)
    crossing.put(0, 1, channels)


def _regrouped(cut: Cut) -> None:
    groups, channels = cut.node.attributes["num_groups"], cut.shape(0)[1]
    if cut.keep(0, 1) is not None and whole_groups(groups, channels):
        cut.set_attribute("num_groups", cut.cut_shape(0)[1] * groups // channels)


@coupling("GroupNormalization", repair=_regrouped)
def _group_normalization(crossing: Crossing) -> None:
    """Cut whole groups where there are many, else the same position of each, which mixes the others."""
    groups, channels = crossing.node.attributes["num_groups"], crossing.shape(0)[1]
    size = channels // groups
    for axis, other in each(crossing, 0):
        if axis != 1:
            crossing.put(0, axis, other)
        if axis > 1:
            crossing.mix(other)
    labels = crossing.labels(0, 1)
    whole = whole_groups(groups, channels)
    if labels is not None and whole:
        tied(crossing, labels, size)
    elif labels is not None:
        crossing.mix(alike(crossing, labels, size))
    for slot in (1, 2):
        own = crossing.labels(slot, 0)
        if crossing.shape(slot)[0] == channels:
            crossing.merge(labels, own)
        elif whole:  # before version 21 there is one parameter a group
            crossing.merge(None if labels is None else labels[::size], own)
        else:
            crossing.freeze(own, "belongs to a group of GroupNormalization, whose number stays")
    crossing.put(0, 1, labels)


def normalised(crossing: Crossing, first: int, slots: list[int], y: int = 0) -> None:
    """Tie inputs as they broadcast, and mix the axes from ``first`` on, which are normalised together."""
    broadcast(crossing, slots, y)
    for axis, labels in each(crossing, 0):
        if axis >= first:
            crossing.mix(labels)


def _statistics(crossing: Crossing, first: int, outputs: tuple[int, ...]) -> None:
    """Give means and deviations the labels of the axes that they are not taken over."""
    for output in outputs:
        if is_read(crossing.node, output):
            for axis, labels in each(crossing, 0):
                if axis < first and axis < len(crossing.out_shape(output)):
                    crossing.put(output, axis, labels)


@coupling("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_normalization(crossing: Crossing) -> None:
    first = positive(crossing.node.get("axis", -1), len(crossing.shape(0)))
    normalised(crossing, first, given(crossing, (0, 1, 2)))
    _statistics(crossing, first, (1, 2))


@coupling("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_layer_normalization(crossing: Crossing) -> None:
    """Normalise the sum of two inputs and a bias; output 3 is that sum."""
    last = len(crossing.shape(0)) - 1
    normalised(crossing, last, given(crossing))
    _statistics(crossing, last, (1, 2))
    if is_read(crossing.node, 3):
        added = 4 if crossing.node.op_type == "SkipLayerNormalization" else 3
        broadcast(crossing, given(crossing, (0, 1, added)), 3)


@coupling("EmbedLayerNormalization", domain="com.microsoft")
def _embed_layer_normalization(crossing: Crossing) -> None:
    """Look up words, positions and segments, add them, normalise; output 2 is the sum."""
    labels = None
    tables = given(crossing, (2, 3, 4))
    for slot in tables:
        crossing.freeze(crossing.labels(slot, 0), "is looked up by an index known only when the model runs")
    for k, slot in enumerate([*tables, *given(crossing, (5, 6))]):
        own = crossing.labels(slot, -1)
        labels = crossing.merge(labels, own) if k else own
    crossing.mix(labels)
    for output in (0, 2):
        if is_read(crossing.node, output):
            crossing.put(output, 2, labels)
    for slot in given(crossing, (0, 1, 7, 8)):
        for _, own in each(crossing, slot):
            crossing.freeze(own, "is an index or a mask")


@coupling("MeanVarianceNormalization")
def _mean_variance_normalization(crossing: Crossing) -> None:
    passed(crossing)
    rank = len(crossing.shape(0))
    axes = {positive(axis, rank) for axis in crossing.node.get("axes", [0, 2, 3])}
    for axis, labels in each(crossing, 0):
        if axis in axes:
            crossing.mix(labels)


@coupling("LpNormalization")
def _lp_normalization(crossing: Crossing) -> None:
    """Pass all axes on; a channel that is zero adds nothing to the norm that divides the others."""
    passed(crossing)
    axis = positive(crossing.node.get("axis", -1), len(crossing.shape(0)))
    if crossing.labels(0, axis) is not None:
        crossing.contract(0, axis, None)


@coupling("LRN")
def _lrn(crossing: Crossing) -> None:
    passed(crossing, (1,), "is normalised with its neighbours by LRN")

"""Attention: heads are cut whole, since each attends by itself; with a single head, what it is wide.

A query head belongs to one key and value head; where several query heads share those, they go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxcompress.couplings._axes import each, fixed, given, has, is_read, summed, tied
from onnxcompress.couplings._base import Crossing, Cut, Labels, coupling

_PLACE = "is a place in the sequence that an attention looks at"
_ALONE = "belongs to the only head of an attention"
_BIASED = "is shifted by a bias inside the only head of an attention, behind which it cannot be silenced"


def _by_head(crossing: Crossing, hidden: Labels | None, heads: int) -> Labels | None:
    """Tie what one head is wide (hidden = heads · size); return one label a head."""
    if hidden is None or heads == 1:
        return None
    return tied(crossing, hidden, len(hidden) // heads)


def _shared(crossing: Crossing, query: Labels | None, other: Labels | None, counts: tuple[int, int]) -> None:
    """Tie query heads with the key or value heads they look at."""
    heads, shared = counts
    if shared > 1:
        crossing.merge(query, None if other is None else np.repeat(other, heads // shared))


def _rows(crossing: Crossing, slots: Sequence[tuple[int, int]]) -> Labels | None:
    """Tie batch axes (slot, axis); those of length 1 are broadcast."""
    labels: Labels | None = None
    met = False
    for slot, axis in slots:
        if has(crossing, slot) and crossing.shape(slot)[axis] > 1:
            own = crossing.labels(slot, axis)
            labels, met = crossing.merge(labels, own) if met else own, True
    return labels


def _biased(crossing: Crossing, slot: int, rows: Labels | None, query: Labels | None) -> None:
    """Tie the batch and the heads of a mask or bias that broadcasts to N heads L S."""
    if not has(crossing, slot):
        return
    shape = crossing.shape(slot)
    for back, labels in ((4, rows), (3, query)):
        if len(shape) >= back and shape[-back] > 1:
            crossing.merge(labels, crossing.labels(slot, -back))
    for axis, labels in each(crossing, slot):
        if axis >= len(shape) - 2:
            crossing.freeze(labels, _PLACE)


def _masked(crossing: Crossing, slot: int, rows: Labels | None) -> None:
    """Tie the batch of a mask or of lengths (N …); where it is packed otherwise, keep the batch."""
    if not has(crossing, slot):
        return
    shape = crossing.shape(slot)
    for axis, labels in each(crossing, slot):
        if axis or rows is None or shape[0] != len(rows):
            crossing.freeze(labels, _PLACE)
    if rows is not None and shape[0] != 1:
        crossing.merge(rows, crossing.labels(slot, 0)) if shape[0] == len(rows) else crossing.freeze(
            rows, _PLACE
        )


def _cached(crossing: Crossing, slots: tuple[int, ...], heads: Sequence[Labels | None]) -> None:
    """Tie the heads of past keys and values (N heads P size)."""
    for slot, own in zip(slots, heads, strict=True):
        if not has(crossing, slot):
            continue
        if crossing.shape(slot)[1] > 1:
            crossing.merge(own, crossing.labels(slot, 1))
        crossing.freeze(crossing.labels(slot, 2), _PLACE)


def _scaled(cut: Cut, size: int) -> None:
    """Keep the scale of before, which the width of a head gave."""
    if not cut.node.get("scale"):
        cut.set_attribute("scale", 1 / math.sqrt(size))


def _narrowed(cut: Cut) -> None:
    """Count the heads that are left; where the only one became narrower, keep its scale."""
    shape = cut.shape(0)
    if len(shape) == 4:
        if cut.keep(0, 3) is not None:
            _scaled(cut, shape[3])
        return
    names = ("num_heads",) if cut.node.domain else ("q_num_heads", "kv_num_heads")
    for name, slot in zip(names, (0, 1), strict=False):
        heads, width = cut.node.attributes[name], cut.shape(slot)[2]
        if heads > 1 and cut.keep(slot, 2) is not None:
            cut.set_attribute(name, cut.cut_shape(slot)[2] * heads // width)
    heads = cut.node.attributes[names[0]]
    if heads == 1 and cut.keep(0, 2) is not None:
        _scaled(cut, shape[2])


@coupling("Attention", repair=_narrowed)
def _attention(crossing: Crossing) -> None:
    flat = len(crossing.shape(0)) == 3
    past = given(crossing, (4, 5))
    rows = _rows(crossing, [(0, 0), (1, 0), (2, 0), *((slot, 0) for slot in past)])
    for slot in given(crossing, (0, 1, 2)):
        crossing.freeze(crossing.labels(slot, 1 if flat else 2), _PLACE)
    _masked(crossing, 6, rows)
    if flat:
        counts = crossing.node.attributes["q_num_heads"], crossing.node.attributes["kv_num_heads"]
        hidden = [crossing.labels(slot, 2) for slot in (0, 1, 2)]
        heads = [
            _by_head(crossing, x, n) for x, n in zip(hidden, (counts[0], counts[1], counts[1]), strict=True)
        ]
    else:
        counts = crossing.shape(0)[1], crossing.shape(1)[1]
        heads = [crossing.labels(slot, 1) for slot in (0, 1, 2)]
    query = heads[0]
    for other in heads[1:]:
        _shared(crossing, query, other, counts)
    _biased(crossing, 3, rows, query)
    _cached(crossing, (4, 5), heads[1:])
    if flat:
        _flat_widths(crossing, query, counts)
    else:
        summed(crossing, (0, 3), (1, 3))
        crossing.put(0, 1, query)
        crossing.put(0, 3, crossing.labels(2, 3))
    for slot, whole in ((4, 1), (5, 2)):
        if has(crossing, slot) and crossing.shape(slot)[3] > 1:
            width = None if flat else crossing.labels(whole, 3)
            crossing.merge(width, crossing.labels(slot, 3))
    crossing.put(0, 0, rows)
    for output, other in ((1, heads[1]), (2, heads[2]), (3, query)):
        if is_read(crossing.node, output):
            crossing.put(output, 0, rows)
            crossing.put(output, 1, other)
            if output < 3 and not flat:
                crossing.put(output, 3, crossing.labels(output, 3))


def _flat_widths(crossing: Crossing, query: Labels | None, counts: tuple[int, int]) -> None:
    """Label the output (N L heads·size) of operands (N L heads·size), whose heads are tied already."""
    heads, shared = counts
    if heads == 1:
        summed(crossing, (0, 2), (1, 2))
        crossing.put(0, 2, crossing.labels(2, 2))
        _kept_present(crossing)
        return
    if shared == 1:
        for slot in (1, 2):
            crossing.freeze(crossing.labels(slot, 2), "is looked at by all heads of an attention")
    if query is not None:
        crossing.put(0, 2, np.repeat(query, crossing.out_shape()[2] // heads))


def _kept_present(crossing: Crossing) -> None:
    """Freeze the width of a single head whose keys and values are given on as a cache."""
    for output, slot in ((1, 1), (2, 2)):
        if is_read(crossing.node, output):
            crossing.freeze(crossing.labels(slot, 2), _ALONE)


@coupling("MultiHeadAttention", domain="com.microsoft", repair=_narrowed)
def _multi_head_attention(crossing: Crossing) -> None:
    """Couple query, key and value (N L heads·size) with a bias of all three behind each other."""
    if given(crossing, (0, 1, 2)) != [0, 1, 2] or any(len(crossing.shape(s)) != 3 for s in (0, 1, 2)):
        crossing.freeze_inputs("is packed with others in one input of MultiHeadAttention")
        return
    count = crossing.node.attributes["num_heads"]
    hidden = [crossing.labels(slot, 2) for slot in (0, 1, 2)]
    if has(crossing, 3):
        bias = crossing.labels(3, 0)
        ends = np.cumsum([crossing.shape(slot)[2] for slot in (0, 1, 2)])
        parts: list[Labels | None] = [None] * 3
        if bias is not None:
            parts = list(np.split(bias, ends[:-1]))
        hidden = [crossing.merge(x, b) for x, b in zip(hidden, parts, strict=True)]
        for labels in hidden[:2] if count == 1 else ():
            crossing.freeze(labels, _BIASED)
    rows = _rows(crossing, [(slot, 0) for slot in (0, 1, 2, *given(crossing, (6, 7)))])
    for slot in (0, 1, 2):
        crossing.freeze(crossing.labels(slot, 1), _PLACE)
    _masked(crossing, 4, rows)
    fixed(crossing, 8, 9, why=_PLACE)
    heads = [_by_head(crossing, x, count) for x in hidden]
    for other in heads[1:]:
        _shared(crossing, heads[0], other, (count, count))
    _biased(crossing, 5, rows, heads[0])
    _cached(crossing, (6, 7), heads[1:])
    for slot in given(crossing, (6, 7)):
        crossing.freeze(crossing.labels(slot, 3), _ALONE)
    _flat_widths(crossing, heads[0], (count, count))
    crossing.put(0, 0, rows)
    for output, other in ((1, heads[1]), (2, heads[2]), (3, heads[0])):
        if is_read(crossing.node, output):
            crossing.put(output, 0, rows)
            crossing.put(output, 1, other)


def _parts(stage: Crossing | Cut) -> list[int]:
    """Return how wide queries, keys and values are in the joint projection."""
    width = stage.shape(1)[1]
    return [int(v) for v in stage.node.get("qkv_hidden_sizes") or [width // 3] * 3]


def _projected(cut: Cut) -> None:
    keep = cut.keep(1, 1)
    if keep is None:
        return
    heads, sizes = cut.node.attributes["num_heads"], _parts(cut)
    after = [int(part.sum()) for part in np.split(keep, np.cumsum(sizes)[:-1])]
    cut.set_attribute("num_heads", after[0] * heads // sizes[0])
    if cut.node.get("qkv_hidden_sizes"):
        cut.set_attribute("qkv_hidden_sizes", after)


@coupling("Attention", domain="com.microsoft", repair=_projected)
def _joint_attention(crossing: Crossing) -> None:
    """Couple an input (N L I), its projection to queries, keys and values (I, all), and their bias."""
    heads, sizes = crossing.node.attributes["num_heads"], _parts(crossing)
    if crossing.labels(0, 2) is not None or crossing.labels(1, 0) is not None:
        crossing.contract(0, 2, crossing.labels(1, 0), weight=(1, 0))
    made = crossing.labels(1, 1)
    if has(crossing, 2):
        made = crossing.merge(made, crossing.labels(2, 0))
    rows = _rows(crossing, [(0, 0)])
    _masked(crossing, 3, rows)
    fixed(crossing, 6, why=_PLACE)
    crossing.freeze(crossing.labels(0, 1), _PLACE)
    crossing.put(0, 0, rows)
    if heads == 1 or made is None:
        crossing.freeze(made, _ALONE)
        return
    query, *others = (_by_head(crossing, part, heads) for part in np.split(made, np.cumsum(sizes)[:-1]))
    for other in others:
        crossing.merge(query, other)
    if has(crossing, 4):  # past keys and values: 2 N heads P size
        crossing.freeze(rows, "is the batch of a cache of keys and values")
        for axis, own in each(crossing, 4):
            if axis != 2:
                crossing.freeze(own, _PLACE)
        crossing.merge(query, crossing.labels(4, 2))
    _biased(crossing, 5, rows, query)
    assert query is not None
    crossing.put(0, 2, np.repeat(query, crossing.out_shape()[2] // heads))
    if is_read(crossing.node, 1):
        crossing.put(1, 2, query)


def _recounted(cut: Cut) -> None:
    """Count the heads that are left; in a part that is turned, the positions of it."""
    flat, node = len(cut.shape(0)) == 3, cut.node
    keep = cut.keep(0, 2 if flat else 3)
    if keep is None:
        return
    heads = node.attributes["num_heads"] if flat else 1
    if heads > 1:
        cut.set_attribute("num_heads", int(keep.sum()) * heads // len(keep))
    elif node.get("rotary_embedding_dim", 0):
        cut.set_attribute("rotary_embedding_dim", int(keep[: node.get("rotary_embedding_dim")].sum()))


@coupling("RotaryEmbedding", repair=_recounted)
def _rotary_embedding(crossing: Crossing) -> None:
    """Pass heads; inside one, the two positions that are turned by one angle go together."""
    flat, node = len(crossing.shape(0)) == 3, crossing.node
    heads = node.attributes["num_heads"] if flat else 1
    for axis, own in each(crossing, 0):
        crossing.put(0, axis, own)
        if axis == (1 if flat else 2):
            crossing.freeze(own, _PLACE)
    rows = crossing.labels(0, 0)
    for slot in (1, 2):
        for axis, own in each(crossing, slot):
            if axis < len(crossing.shape(slot)) - 1:
                crossing.freeze(own, _PLACE)
        if len(crossing.shape(slot)) == 3:  # angles of each example
            crossing.freeze(rows, _PLACE)
    _masked(crossing, 3, rows)
    labels = crossing.labels(0, 2 if flat else 3)
    if heads > 1 or labels is None:
        _by_head(crossing, labels, heads)
        for slot in (1, 2):
            crossing.freeze(crossing.labels(slot, -1), "turns every head by the same angles")
        return
    size = node.get("rotary_embedding_dim", 0) or len(labels)
    turned = labels[:size]
    pairs = turned.reshape(-1, 2).T if node.get("interleaved", 0) else turned.reshape(2, -1)
    crossing.merge(pairs[0], pairs[1])
    if size < len(labels):
        # a part of no positions would mean all of them
        crossing.freeze(pairs[0, :1], "is turned by a RotaryEmbedding that turns only a part")
    for slot in (1, 2):
        if pairs.shape[1] > 1:
            crossing.merge(pairs[0], crossing.labels(slot, -1))


def _reheaded(cut: Cut) -> None:
    for name, slot in (("q_num_heads", 0), ("kv_num_heads", 1)):
        heads = cut.node.attributes[name]
        if heads > 1 and cut.keep(slot, 2) is not None:
            cut.set_attribute(name, cut.cut_shape(slot)[2] * heads // cut.shape(slot)[2])


@coupling("LinearAttention", repair=_reheaded)
def _linear_attention(crossing: Crossing) -> None:
    """Cut heads whole: each keeps a state (N heads key value) of its own."""
    heads, shared = crossing.node.attributes["q_num_heads"], crossing.node.attributes["kv_num_heads"]
    for slot in given(crossing, (0, 1, 2, 4, 5)):
        crossing.freeze(crossing.labels(slot, 1), _PLACE)
    rows = _rows(crossing, [(slot, 0) for slot in given(crossing)])
    if heads == 1 or shared == 1:
        for slot in given(crossing):
            for axis, labels in each(crossing, slot):
                if axis:
                    crossing.freeze(labels, "is looked at by all heads of an attention")
        crossing.put(0, 0, rows)
        return
    query = _by_head(crossing, crossing.labels(0, 2), heads)
    for slot in given(crossing, (1, 2, 4, 5)):
        own = crossing.labels(slot, 2)
        if crossing.shape(slot)[2] > 1:
            _shared(crossing, query, _by_head(crossing, own, shared), (heads, shared))
    if has(crossing, 3):
        _shared(crossing, query, crossing.labels(3, 1), (heads, shared))
        for axis in (2, 3):
            crossing.freeze(crossing.labels(3, axis), _ALONE)
    crossing.put(0, 0, rows)
    if query is not None:
        crossing.put(0, 2, np.repeat(query, crossing.out_shape()[2] // heads))
    if is_read(crossing.node, 1):
        crossing.put(1, 0, rows)
        crossing.put(1, 1, None if query is None else query[:: heads // shared])

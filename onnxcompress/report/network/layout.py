"""Where each box goes: ranks from top to bottom, as in Sugiyama et al. 1981, set in columns like a newspaper.

An edge that passes ranks by has a narrow slot in each of them. All edges out of one box share their slots,
so that a DenseNet, where everything is read by everything behind it, stays readable.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BOX_WIDTH, BOX_HEIGHT, RANK_HEIGHT = 118.0, 33.0, 50.0
SLOT_WIDTH, GAP, GUTTER, TRACK = 2.0, 10.0, 30.0, 5.0
MARGIN = 14.0

ORDER_SWEEPS, PLACE_SWEEPS = 12, 30
ASIDE = 0.15
"""How strongly a box and an edge that passes others by draw each other; two of a kind draw with 1."""

CENTRE = 0.08
"""How strongly a box is drawn to the middle; a neighbour draws with 1. Long chains do not wander off."""


@dataclass(frozen=True)
class Line:
    """One piece of an edge: points (x, y), bent smoothly, or with corners where it goes to another column."""

    points: tuple[tuple[float, float], ...]
    corners: bool = False


@dataclass(frozen=True)
class Layout:
    """Places on the page.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        boxes: (left, top) of each box.
        lines: pieces of edges, behind the boxes.
    """

    width: float
    height: float
    boxes: tuple[tuple[float, float], ...]
    lines: tuple[Line, ...]


@dataclass(eq=False)
class _Item:
    """A box, or a slot of an edge that passes by; ``box`` is the box, or where the edge comes from."""

    box: int
    rank: int
    slot: bool
    above: list[_Item] = field(default_factory=list)
    below: list[_Item] = field(default_factory=list)
    at: float = 0.0

    @property
    def width(self) -> float:
        return SLOT_WIDTH if self.slot else BOX_WIDTH


def placed(reads: Sequence[Sequence[int]], page_width: float) -> Layout:
    """Place boxes.

    Args:
        reads: for each box those it reads, each with a smaller number.
        page_width: the drawing is as wide at most, if that can be had by fewer columns.
    """
    if not reads:
        return Layout(0.0, 0.0, (), ())
    ranks = _items(reads, _ranks(reads))
    ranks = _ordered(ranks)
    _set(ranks)
    return _folded(ranks, len(reads), _breaks(ranks, page_width))


def pieces(reads: Sequence[Sequence[int]]) -> int:
    """Return of how many pieces the edges of a drawing would be."""
    rank, reach = _ranks(reads), [0] * len(reads)
    for box, own in enumerate(reads):
        for r in own:
            reach[r] = max(reach[r], rank[box] - rank[r] - 1)
    return sum(len(own) for own in reads) + 2 * sum(reach)


def _ranks(reads: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest way from a start to each box; starts stand just above what reads them."""
    rank: list[int] = []
    for own in reads:
        rank.append(1 + max((rank[r] for r in own), default=-1))
    readers: list[list[int]] = [[] for _ in reads]
    for box, own in enumerate(reads):
        for r in own:
            readers[r].append(box)
    for box, own in enumerate(reads):
        if not own and readers[box]:
            rank[box] = min(rank[r] for r in readers[box]) - 1
    return rank


def _items(reads: Sequence[Sequence[int]], rank: Sequence[int]) -> list[list[_Item]]:
    """Return the boxes and slots of each rank, connected."""
    ranks: list[list[_Item]] = [[] for _ in range(max(rank) + 1)]
    boxes = [_Item(box, rank[box], False) for box in range(len(reads))]
    for item in boxes:
        ranks[item.rank].append(item)
    last: dict[int, _Item] = {}
    for _, box, r in sorted((rank[box], box, r) for box, own in enumerate(reads) for r in own):
        end = last.get(r, boxes[r])
        while end.rank < rank[box] - 1:
            slot = _Item(r, end.rank + 1, True)
            ranks[slot.rank].append(slot)
            _connect(end, slot)
            end = last[r] = slot
        _connect(end, boxes[box])
    return ranks


def _connect(upper: _Item, lower: _Item) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _ordered(ranks: list[list[_Item]]) -> list[list[_Item]]:
    """Order each rank so that few edges cross: items go where their neighbours are on average."""
    best, fewest = [list(r) for r in ranks], _crossings(ranks)
    for sweep in range(ORDER_SWEEPS):
        down = sweep % 2 == 0
        for rank in range(1, len(ranks)) if down else range(len(ranks) - 2, -1, -1):
            place = {item: i for i, item in enumerate(ranks[rank - 1 if down else rank + 1])}
            own = {item: float(i) for i, item in enumerate(ranks[rank])}
            for item in ranks[rank]:
                near = item.above if down else item.below
                if near:
                    own[item] = sum(place[n] for n in near) / len(near)
            ranks[rank].sort(key=own.__getitem__)
        crossings = _crossings(ranks)
        if crossings < fewest:
            best, fewest = [list(r) for r in ranks], crossings
    return best


def _crossings(ranks: Sequence[Sequence[_Item]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(ranks):
        place = {item: i for i, item in enumerate(lower)}
        ends = [place[b] for item in upper for b in sorted(item.below, key=place.__getitem__)]
        total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return total


def _set(ranks: Sequence[Sequence[_Item]]) -> None:
    """Give each item its place from left to right: near its neighbours, and long edges straight."""
    for rank in ranks:
        for i, item in enumerate(rank):
            item.at = i * (BOX_WIDTH + GAP)
    for sweep in range(PLACE_SWEEPS):
        both = sweep >= PLACE_SWEEPS // 3
        for rank in ranks if sweep % 2 == 0 else ranks[::-1]:
            wanted = []
            for item in rank:
                near = [*item.above, *item.below] if both else item.above if sweep % 2 == 0 else item.below
                wanted.append(_drawn_to(item, near))
            for item, at in zip(rank, _apart(wanted, rank), strict=True):
                item.at = at


def _drawn_to(item: _Item, near: Sequence[_Item]) -> float:
    """Return where its neighbours want an item; a box and an edge that passes go round each other."""
    pulls = [1.0 if n.slot == item.slot else ASIDE for n in near]
    middle = 0.0 if item.slot and near else CENTRE
    return sum(p * n.at for p, n in zip(pulls, near, strict=True)) / (sum(pulls) + middle)


def _apart(wanted: Sequence[float], items: Sequence[_Item]) -> list[float]:
    """Return places nearest to those wanted (least squares) at which neighbours do not touch.

    With the least distances taken off, places must only not descend: that is isotonic regression, solved by
    pooling neighbours that are out of order.
    """
    offsets, offset = [0.0], 0.0
    for a, b in itertools.pairwise(items):
        offset += (a.width + b.width) / 2 + GAP
        offsets.append(offset)
    pools: list[tuple[float, int]] = []  # mean, number of items
    for want, shift in zip(wanted, offsets, strict=True):
        mean, count = want - shift, 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + shift for mean, shift in zip(means, offsets, strict=True)]


def _extent(ranks: Sequence[Sequence[_Item]]) -> tuple[float, float]:
    items = [item for rank in ranks for item in rank]
    return min(i.at - i.width / 2 for i in items), max(i.at + i.width / 2 for i in items)


def _breaks(ranks: Sequence[Sequence[_Item]], page_width: float) -> list[int]:
    """Return the first rank of each column: the lowest page on which the columns fit side by side."""
    lines = [len([i for i in rank if i.below]) for rank in ranks]
    for height in range(min(10, len(ranks)), len(ranks)):
        starts = [0]
        while len(ranks) - starts[-1] > height:
            start = starts[-1]
            ends = range(start + max(1, (height * 3) // 4), start + height + 1)
            starts.append(min(ends, key=lambda e: (lines[e - 1], -e)))
        if len(ranks) - starts[-1] < height // 3:
            continue  # a last column of a few boxes looks lost
        columns = [ranks[a:b] for a, b in zip(starts, [*starts[1:], len(ranks)], strict=True)]
        gutters = sum(GUTTER + TRACK * lines[s - 1] for s in starts[1:])
        if sum(b - a for a, b in map(_extent, columns)) + gutters + 2 * MARGIN <= page_width:
            return starts
    return [0]


def _folded(ranks: Sequence[Sequence[_Item]], count: int, starts: Sequence[int]) -> Layout:
    """Put the columns side by side and draw the edges, those to the next column around the corner."""
    ends = [*starts[1:], len(ranks)]
    most = max((len(ranks[s - 1]) for s in starts[1:]), default=0)
    top = MARGIN + (TRACK * most if len(starts) > 1 else 0)
    left, boxes = MARGIN, [(0.0, 0.0)] * count
    shifts: dict[int, tuple[float, float]] = {}
    gutters: dict[int, float] = {}
    for start, end in zip(starts, ends, strict=True):
        low, high = _extent(ranks[start:end])
        for i in range(start, end):
            shifts[i] = (left - low, top + RANK_HEIGHT * (i - start))
        gutters[end - 1] = left + high - low + GUTTER / 2
        crossing = len([i for i in ranks[end - 1] if i.below]) if end < len(ranks) else 0
        left += high - low + GUTTER + TRACK * crossing
    for rank in ranks:
        for item in rank:
            if not item.slot:
                shift, y = shifts[item.rank]
                boxes[item.box] = (item.at + shift - BOX_WIDTH / 2, y)
    tallest = max(end - start for start, end in zip(starts, ends, strict=True))
    height = top + RANK_HEIGHT * tallest - (RANK_HEIGHT - BOX_HEIGHT) + MARGIN + (TRACK * most)
    folds = {s: gutters[s - 1] for s in starts[1:]}
    lines = [line for rank in ranks for line in _lines(rank, shifts, top, folds)]
    return Layout(left - GUTTER + MARGIN, height, tuple(boxes), tuple(lines))


def _lines(
    rank: Sequence[_Item],
    shifts: Mapping[int, tuple[float, float]],
    top: float,
    folds: Mapping[int, float],
) -> list[Line]:
    """Return the pieces of edges that leave a rank, and those that pass it.

    Args:
        rank: its items.
        shifts: rank -> what is added to places from left to right, and its top.
        top: of every column.
        folds: first rank of a column -> where edges to it go up, left of it.
    """
    found, track = [], 0
    for item in rank:
        shift, y = shifts[item.rank]
        x, floor = item.at + shift, y + BOX_HEIGHT
        if item.slot:
            found.append(Line(((x, y), (x, floor))))
        for lower in item.below:
            other, ceiling = shifts[lower.rank]
            end = (lower.at + other, ceiling)
            if lower.rank in folds:
                gutter, out = folds[lower.rank] + TRACK * track, TRACK * track + 6
                turns = ((x, floor + out), (gutter, floor + out), (gutter, top - out), (end[0], top - out))
                found.append(Line(((x, floor), *turns, end), corners=True))
            else:
                found.append(Line(((x, floor), end)))
        track += bool(item.below)
    return found

"""Widths: to how many channels a group may be cut, and the search for those that just meet a target.

Widths come in blocks, because the time of a convolution does: onnxruntime computes 16 channels at once, and
a width that is no multiple of 4 falls off its fast path altogether. A group keeps one of its *widths*:
multiples of the block; below one block multiples of 4; any number where its width was no multiple of 4 and
less than 4 are left.

Where the goal is a measured latency, widths below a block are tried only if whole blocks do not reach it: a
part of a block is computed as a whole one, and joining several that are not whole costs time besides.

One level for all groups may leave much of a target unused, since many change their width at once: 0.27 of
the multiply-accumulates of four layers of 32 channels stayed where 0.5 might have. So groups are widened
again, one by one, while the target holds (:func:`filled`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxcompress.core.channels import Group, Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError

FAST = 4
"""Widths that are no multiple of this are slow in onnxruntime."""

MEASUREMENTS = 8
"""Largest number of candidates that are measured where measuring takes long."""

_FILLINGS = 64
"""Times that every group may be widened by a block, where the target leaves so much."""

_SLACK = 1e-9


class OutOfReachError(UnsupportedError):
    """The least widths leave more than the target."""


class Ladder(Protocol):
    """Cuts in an order in which no group gets narrower."""

    @property
    def levels(self) -> Array:
        """What tells the cuts apart, the one that leaves least first; the last misses the target."""

    def widths(self, level: float) -> list[int]:
        """Return how many channels of each group stay at a level."""


@dataclass(frozen=True)
class Limit:
    """What a cut has to keep to.

    Attributes:
        share: what share of a quantity a cut leaves.
        most: of it that may stay.
        words: what is asked for, for the error: ``0.5 of the parameters``.
        blocks_first: take parts of blocks only where whole ones do not do.
        measured: ``share`` takes long: ask it ``MEASUREMENTS`` times at most.
    """

    share: Callable[[Keep], float]
    most: float
    words: str
    blocks_first: bool = False
    measured: bool = False

    def holds(self, share: float) -> bool:
        """Tell whether no more than the target stays."""
        return share <= self.most + _SLACK

    def require(self, least: float, round_to: int) -> None:
        """Raise OutOfReachError where the least that can stay, of these blocks, is more than the target."""
        if not self.holds(least):
            narrower = "allow narrower widths with --round-to 1, " if round_to > 1 else ""
            raise OutOfReachError(
                f"{self.words} cannot be reached",
                why=f"{least:.3g} of the whole stay with every group that may be cut at its least width, "
                f"where {self.most:.3g} may",
                fix=f"let a larger share stay, {narrower}or let more be cut: "
                "`onnxcompress inspect` says what is frozen",
            )


@dataclass(frozen=True)
class Found:
    """What a search found: the level, how many channels of each group stay there, what share that leaves."""

    level: float
    widths: Sequence[int]
    share: float


def search(
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    round_to: int,
    ladder: Callable[[Sequence[Array]], Ladder],
    limit: Limit,
) -> Found:
    """Return the highest level at which the limit holds, by bisection.

    Args:
        groups: those that may be cut.
        scores: group name -> rank of each of its channels; the highest stay.
        round_to: block of widths.
        ladder: makes the cuts to choose from of the widths that each group may have.
        limit: what has to hold.

    Raises:
        OutOfReachError: not even the lowest level holds.
    """
    allowed = choices(groups, round_to)
    if limit.blocks_first:
        whole = [_whole_blocks(a, positions(g), round_to) for g, a in zip(groups, allowed, strict=True)]
        with suppress(OutOfReachError):
            return _climbed(ladder(whole), groups, scores, limit, round_to)
    return _climbed(ladder(allowed), groups, scores, limit, round_to)


def _climbed(
    ladder: Ladder, groups: Sequence[Group], scores: Mapping[str, Array], limit: Limit, round_to: int
) -> Found:
    known: dict[tuple[int, ...], float] = {}

    def at(index: int) -> Found:
        level = float(ladder.levels[index])
        found = ladder.widths(level)
        key = tuple(found)
        if key not in known:
            known[key] = limit.share(masks(groups, scores, found))
        return Found(level, found, known[key])

    low, high = 0, len(ladder.levels) - 1
    limit.require(at(low).share, round_to)
    while high - low > 1 and len(known) < (MEASUREMENTS if limit.measured else math.inf):
        middle = (low + high) // 2
        low, high = (middle, high) if limit.holds(at(middle).share) else (low, middle)
    return at(low)


def filled(
    found: Found,
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    *,
    round_to: int,
    limit: Limit,
    worth: Callable[[Group, int, int], float],
) -> Found:
    """Widen groups again, those first for whom it is worth most, while the limit holds.

    A group whose next width is too much is left at that, since no other gets narrower; a measured limit is
    asked ``MEASUREMENTS`` times more at most.

    Args:
        found: what the search found.
        groups: those that were asked for.
        scores: group name -> rank of each of its channels; the highest stay.
        round_to: block of widths.
        limit: what has to hold.
        worth: of widening a group from one width to another.
    """
    allowed = choices(groups, round_to)
    kept, share = list(found.widths), found.share
    left, waiting = MEASUREMENTS if limit.measured else math.inf, list(range(len(groups)))
    for _ in range(_FILLINGS):
        wider = {i: int(own[own > kept[i]][0]) for i in waiting if (own := allowed[i])[-1] > kept[i]}
        ranked = sorted(wider, key=lambda i: -worth(groups[i], kept[i], wider[i]))
        waiting = []
        for index in ranked:
            if left <= 0:
                break
            left -= 1
            tried = [*kept[:index], wider[index], *kept[index + 1 :]]
            reached = limit.share(masks(groups, scores, tried))
            if limit.holds(reached):
                kept, share = tried, reached
                waiting.append(index)
        if not waiting:
            break
    return Found(found.level, kept, share)


def masks(groups: Sequence[Group], scores: Mapping[str, Array], kept: Sequence[int]) -> dict[str, Array]:
    """Return masks of the highest channels, of equal ones the first; none for groups left whole."""
    found = {}
    for group, width in zip(groups, kept, strict=True):
        if width < group.size:
            mask = np.zeros(group.size, bool)
            mask[np.argsort(-scores[group.name], kind="stable")[:width]] = True
            found[group.name] = mask
    return found


def choices(groups: Sequence[Group], round_to: int) -> list[Array]:
    """Return the widths that each group may have."""
    return [widths_of(g, round_to) for g in groups]


def widths_of(group: Group, round_to: int) -> Array:
    """Return the widths a group may have, ascending, itself last.

    A layer that reads the channels twice over, as well as once, may be fast where the others are not, and
    stays so: of 6 channels, 12 behind a Concat, 2 and 4 may be left, not 3.
    """
    allowed, fine = widths(group.size, positions(group), round_to), min(round_to, FAST)
    for places in {int(c) for axis in _axes(group) for c in np.bincount(axis[axis >= 0])}:
        if group.size * places % fine == 0:
            allowed = allowed[allowed * places % fine == 0]
    return allowed


def widths(size: int, positions: int = 1, round_to: int = 16) -> Array:
    """Return the widths a group of ``size`` channels may have, ascending, itself last.

    Args:
        size: number of channels.
        positions: places along a layer's axis that one channel takes; the axis has ``size · positions``.
        round_to: block.

    >>> widths(40), widths(10), widths(4, positions=32)
    (array([ 4,  8, 12, 16, 32, 40]), array([ 1,  2,  3,  4,  8, 10]), array([1, 2, 3, 4]))
    """
    fine = min(round_to, FAST)
    block = round_to if size * positions % fine == 0 else fine
    block, fine = (step // math.gcd(step, positions) for step in (block, fine))
    found = {size, *range(block, size, block), *range(fine, min(block, size), fine)}
    if size % fine:
        found.update(range(1, min(fine, size)))
    return np.array(sorted(found), dtype=np.int64)


def nearest(allowed: Array, wanted: int) -> int:
    """Return the nearest width, of two the smaller."""
    return int(allowed[int(np.argmin(np.abs(allowed - wanted)))])


def _whole_blocks(allowed: Array, positions: int, round_to: int) -> Array:
    """Return those of the widths that are no less than one block, or the largest."""
    whole: Array = allowed[(allowed * positions >= round_to) | (allowed == allowed[-1])]
    return whole


def positions(group: Group) -> int:
    """Return how many places along the layers' axes one channel takes at least.

    A channel behind a Flatten takes many places in front of a Gemm, but one in the convolution before it.
    """
    counts = [np.bincount(axis[axis >= 0], minlength=group.size).min() for axis in _axes(group)]
    return max(1, int(min(counts, default=1)))


def _axes(group: Group) -> list[Array]:
    """Return for each axis of a layer that holds the group whose channel is where.

    A normalisation may hold one number for many places of a channel; that makes no layer slow.
    """
    axes = [m.channel_of for m in group.members if not (m.consumes or m.alone)]
    axes += [s.channel_of for s in group.sites]
    return axes or [m.channel_of for m in group.members]

"""Allocation: how many channels of each group stay, from their importance and what is asked for.

Widths come in blocks, because the time of a convolution does: onnxruntime computes 16 channels at once, and
a width that is no multiple of 4 falls off its fast path altogether. A group keeps one of its *widths*:
multiples of the block; below one block multiples of 4; any number where its width was no multiple of 4 and
less than 4 are left.

With the scope *layer* every group keeps the same share, rounded down, so that never more stays than was
asked for. With the scope *joint* the channels of all groups are ranked together: their importance is divided
by its mean over the group, so that large and small groups, with many and few weights, are alike on average,
and, where work or parameters are to be saved, by the square root of what one channel of the group costs. The
threshold is the highest number of channels for which the goal holds, with every group rounded to the nearest
of its widths and no group below a tenth of its channels.

Where the goal is a measured latency, widths below a block are tried only if whole blocks do not reach it: a
part of a block is computed as a whole one, and joining several that are not whole costs time besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError, UsageError

Scope = Literal["layer", "joint"]
Quantity = Literal["channels", "params", "macs", "latency"]
Keep = Mapping[str, Array]

LEAST_SHARE = 0.1
"""Share of a group's channels that a joint ranking leaves at least."""

FAST = 4
"""Widths that are no multiple of this are slow in onnxruntime."""

_MEASUREMENTS = 8
"""Largest number of candidates whose latency is measured."""


@dataclass(frozen=True)
class Target:
    """What share of a quantity of the whole model stays: ``macs=0.5``.

    Attributes:
        quantity: what is counted: channels of the groups that may be cut, or of the whole model its
            parameters, its multiply-accumulates or its measured latency.
        share: of it that stays at most, over 0 and below 1.
    """

    quantity: Quantity
    share: float

    @classmethod
    def read(cls, text: str) -> Target:
        """Read ``macs=0.5``, ``params=0.4`` or ``latency=0.6``; raises UsageError."""
        name, _, number = text.partition("=")
        known = get_args(Quantity)[1:]
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name not in known or not 0 < share < 1:
            raise UsageError(
                f"cannot read the target {text!r}",
                fix=f"write {', '.join(known)} = the share that stays, over 0 and below 1: macs=0.5",
            )
        return cls(name, share)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Costs:
    """Ways to tell what a cut leaves; each takes the groups' masks.

    Attributes:
        params: parameters of the whole model.
        macs: multiply-accumulates of one inference.
        latency: time of one inference divided by the uncut model's; None where it cannot be measured.
    """

    params: Callable[[Keep], float]
    macs: Callable[[Keep], float]
    latency: Callable[[Keep], float] | None = None


@dataclass(frozen=True)
class Allocation:
    """The decision.

    Attributes:
        keep: group name -> which channels stay, for the groups that are cut.
        whole: group name -> why a group that might have been cut stays whole.
        reached: the share of the quantity that stays.
    """

    keep: Mapping[str, Array]
    whole: Mapping[str, str] = field(default_factory=dict)
    reached: float = 1.0


def allocate(
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    target: Target,
    *,
    scope: Scope = "layer",
    round_to: int = 16,
    costs: Costs | None = None,
) -> Allocation:
    """Decide which channels stay.

    Args:
        groups: those that may be cut.
        scores: group name -> importance of each of its channels (``group.size``), at least 0.
        target: what share of what stays.
        scope: every group the same share, or all channels ranked together.
        round_to: block of widths: 1, 2 or a multiple of 4.
        costs: needed for every quantity but channels.

    Raises:
        UnsupportedError: the target cannot be reached with these groups.
    """
    if not groups:
        return Allocation({})
    kept, reached = _Question(groups, scores, target, scope, round_to, costs).answer()
    keep = _masks(groups, scores, kept)
    whole = {g.name: _why_whole(g, target, round_to) for g in groups if g.name not in keep}
    return Allocation(keep, whole, reached)


class _OutOfReachError(UnsupportedError):
    """The least widths leave more than the target."""


@dataclass(frozen=True)
class _Question:
    """What :func:`allocate` was asked."""

    groups: Sequence[Group]
    scores: Mapping[str, Array]
    target: Target
    scope: Scope
    round_to: int
    costs: Costs | None

    def answer(self) -> tuple[list[int], float]:
        """Return how many channels of each group stay, and what share of the quantity that is."""
        groups, target, round_to = self.groups, self.target, self.round_to
        allowed = [widths(g.size, positions(g), round_to) for g in groups]
        if self.scope == "layer" and target.quantity == "channels":
            kept = _Layers(groups, allowed).widths(target.share)
            return kept, _share(target, groups, _masks(groups, self.scores, kept), self.costs)
        if target.quantity == "latency":
            whole = [_whole_blocks(a, positions(g), round_to) for g, a in zip(groups, allowed, strict=True)]
            with suppress(_OutOfReachError):
                return self._searched(whole)
        return self._searched(allowed)

    def _searched(self, allowed: Sequence[Array]) -> tuple[list[int], float]:
        ladder = _Layers(self.groups, allowed) if self.scope == "layer" else _Joint(self, allowed)
        return _search(ladder, self.groups, self.scores, self.target, self.costs)


def _whole_blocks(allowed: Array, positions: int, round_to: int) -> Array:
    """Return those of the widths that are no less than one block, or the largest."""
    whole: Array = allowed[(allowed * positions >= round_to) | (allowed == allowed[-1])]
    return whole


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


def positions(group: Group) -> int:
    """Return how many places along the layers' axes one channel takes at least.

    A channel behind a Flatten takes many places in front of a Gemm, but one in the convolution before it.
    """
    axes = [m.channel_of for m in group.members if not m.consumes] + [s.channel_of for s in group.sites]
    axes = axes or [m.channel_of for m in group.members]
    counts = [np.bincount(axis[axis >= 0], minlength=group.size).min() for axis in axes]
    return max(1, int(min(counts, default=1)))


class _Layers:
    """The share of each group that stays, as a level from 0 to 1."""

    def __init__(self, groups: Sequence[Group], allowed: Sequence[Array]) -> None:
        self._allowed = allowed
        self._sizes = [g.size for g in groups]
        shares = [own / own[-1] for own in allowed]
        self.levels: Array = np.unique(np.concatenate(shares)) if shares else np.ones(1)

    def widths(self, share: float) -> list[int]:
        """Return the largest widths that are not more than this share of each group."""
        return [
            _down(allowed, share * size) for allowed, size in zip(self._allowed, self._sizes, strict=True)
        ]


class _Joint:
    """The number of channels of all groups together that stay, as a level."""

    def __init__(self, question: _Question, allowed: Sequence[Array]) -> None:
        groups = question.groups
        self._allowed = allowed
        self._floors = [
            int(own[np.searchsorted(own, _floor(g.size, question.round_to))])
            for g, own in zip(groups, allowed, strict=True)
        ]
        price = _prices(groups, question.target, question.costs)
        fair = [_fair(question.scores[g.name]) / price[g.name] for g in groups]
        self._owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        self._order = np.argsort(-np.concatenate(fair), kind="stable") if fair else np.zeros(0, np.int64)
        self.levels: Array = np.arange(len(self._order) + 1)

    def widths(self, count: float) -> list[int]:
        """Return the widths that the ``count`` most important channels of all groups come to."""
        chosen = np.bincount(self._owner[self._order[: int(count)]], minlength=len(self._allowed))
        return [
            max(floor, _nearest(allowed, int(n)))
            for n, floor, allowed in zip(chosen, self._floors, self._allowed, strict=True)
        ]


def _search(
    ladder: _Layers | _Joint,
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    target: Target,
    costs: Costs | None,
) -> tuple[list[int], float]:
    """Return the widths of the highest level at which the target holds, by bisection, and what they reach."""
    known: dict[tuple[int, ...], float] = {}

    def share_at(level: float) -> float:
        found = ladder.widths(level)
        key = tuple(found)
        if key not in known:
            known[key] = _share(target, groups, _masks(groups, scores, found), costs)
        return known[key]

    levels, low, high = ladder.levels, 0, len(ladder.levels) - 1
    least = share_at(levels[low])
    if least > target.share + 1e-9:
        what = {"params": "parameters", "macs": "multiply-accumulates"}.get(target.quantity, target.quantity)
        raise _OutOfReachError(
            f"{target.share:g} of the {what} cannot be reached",
            why=f"{least:.3g} stay with every group that may be cut at its least width",
            fix="ask for less, or let more be cut: `onnxcompress inspect` says what is frozen",
        )
    while high - low > 1 and len(known) < (_MEASUREMENTS if target.quantity == "latency" else math.inf):
        middle = (low + high) // 2
        low, high = (middle, high) if share_at(levels[middle]) <= target.share + 1e-9 else (low, middle)
    return ladder.widths(levels[low]), share_at(levels[low])


def _share(target: Target, groups: Sequence[Group], keep: Keep, costs: Costs | None) -> float:
    """Return the share of the quantity that stays."""
    if target.quantity == "channels":
        total = sum(g.size for g in groups)
        cut = sum(int(np.count_nonzero(~mask)) for mask in keep.values())
        return 1 - cut / total if total else 1.0
    assert costs is not None
    if target.quantity == "latency":
        assert costs.latency is not None
        return costs.latency(keep)
    count = costs.params if target.quantity == "params" else costs.macs
    return count(keep) / max(count({}), 1)


def _masks(groups: Sequence[Group], scores: Mapping[str, Array], kept: Sequence[int]) -> dict[str, Array]:
    """Return masks of the most important channels, of equal ones the first; none for groups left whole."""
    masks = {}
    for group, width in zip(groups, kept, strict=True):
        if width < group.size:
            mask = np.zeros(group.size, bool)
            mask[np.argsort(-scores[group.name], kind="stable")[:width]] = True
            masks[group.name] = mask
    return masks


def _prices(groups: Sequence[Group], target: Target, costs: Costs | None) -> dict[str, float]:
    """Return what one channel of each group costs, its square root, relative to the others' mean.

    The root, because with the whole price the cheap groups would stay whole and the costly ones be cut to
    their least width. Latency is priced by its multiply-accumulates.
    """
    if target.quantity == "channels" or costs is None:
        return {g.name: 1.0 for g in groups}
    count = costs.params if target.quantity == "params" else costs.macs
    total, found = count({}), {}
    for group in groups:
        half = np.arange(group.size) >= group.size // 2
        saved = total - count({group.name: half}) if group.size > 1 else 0
        found[group.name] = math.sqrt(max(saved / max(group.size // 2, 1), 1e-12 * max(total, 1)))
    mean = sum(found.values()) / max(len(found), 1)
    return {name: price / mean for name, price in found.items()}


def _fair(scores: Array) -> Array:
    """Return scores divided by their mean over the group."""
    mean = float(scores.mean())
    return scores / mean if mean > 0 else np.ones(len(scores))


def _floor(size: int, round_to: int) -> int:
    """Return the fewest channels that a joint ranking leaves: a tenth, and a block of a wide group."""
    return max(1, math.ceil(LEAST_SHARE * size), min(round_to, size // 4))


def _down(allowed: Array, wanted: float) -> int:
    """Return the largest width that is not more than wanted, or else the smallest."""
    index = int(np.searchsorted(allowed, wanted + 1e-9, side="right")) - 1
    return int(allowed[max(index, 0)])


def _nearest(allowed: Array, wanted: int) -> int:
    """Return the nearest width, of two the smaller."""
    return int(allowed[int(np.argmin(np.abs(allowed - wanted)))])


def _why_whole(group: Group, target: Target, round_to: int) -> str:
    if group.size == 1:
        return "has one channel, and no layer is emptied"
    allowed = widths(group.size, positions(group), round_to)
    if len(allowed) == 1:
        return f"has {group.size} channels, and fewer would be no multiple of {FAST}; --round-to 1 cuts them"
    if target.quantity == "channels" and target.share >= 1:
        return "everything is to be kept"
    return "is important enough to stay whole"

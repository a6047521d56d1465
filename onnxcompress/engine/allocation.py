"""Allocation: how many channels of each group stay, from their importance and what is asked for.

A group keeps one of its widths (:mod:`onnxcompress.engine.widths`).

With the scope *layer* every group keeps the same share, rounded down, so that never more stays than was
asked for; where a target for the whole model leaves room for it, those with the smallest share get a block
more. With the scope *joint* the channels of all groups are ranked together: their importance is divided
by its mean over the group, so that large and small groups, with many and few weights, are alike on average,
and, where work or parameters are to be saved, by the square root of what one channel of the group costs. The
threshold is the highest number of channels for which the goal holds, with every group rounded to the nearest
of its widths and no group below a tenth of its channels; then those whose next channels are the most
important get a block more while the goal holds, and where much of it is left, for a block of others that are
about as important (:mod:`onnxcompress.engine.exchanges`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from onnxcompress.core.channels import Group, Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.engine import exchanges
from onnxcompress.engine.widths import FAST, Found, Limit, choices, filled, masks, nearest, search, widths_of

Scope = Literal["layer", "joint"]
Quantity = Literal["channels", "params", "macs", "latency"]

LEAST_SHARE = 0.1
"""Share of a group's channels that a joint ranking leaves at least."""

_ALIKE = math.log(10) / 2
"""Difference of log importance up to which channels of two groups may be exchanged: α goes by its square."""


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
        if text.count("=") > 1:
            raise UsageError(
                f"the target {text!r} names several quantities",
                why="this method holds one",
                fix="keep the one that is meant; --method vib holds several",
            )
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
    keep = masks(groups, scores, kept)
    whole = {g.name: _why_whole(g, target, round_to) for g in groups if g.name not in keep}
    return Allocation(keep, whole, reached)


@dataclass(frozen=True)
class _Question:
    """What :func:`allocate` was asked."""

    groups: Sequence[Group]
    scores: Mapping[str, Array]
    target: Target
    scope: Scope
    round_to: int
    costs: Costs | None

    def answer(self) -> tuple[Sequence[int], float]:
        """Return how many channels of each group stay, and what share of the quantity that is."""
        if self.scope == "layer" and self.target.quantity == "channels":
            kept = _Layers(self.groups, choices(self.groups, self.round_to)).widths(self.target.share)
            return kept, self._share(masks(self.groups, self.scores, kept))
        groups, scores, round_to, limit = self.groups, self.scores, self.round_to, self._limit()
        if self.scope == "joint":
            prices = _prices(groups, self.target, self.costs)
            found = ranked(groups, scores, prices, round_to=round_to, limit=limit)
        else:
            found = search(groups, scores, round_to, lambda allowed: _Layers(groups, allowed), limit)
            found = filled(found, groups, scores, round_to=round_to, limit=limit, worth=_layers_worth)
        return found.widths, found.share

    def _limit(self) -> Limit:
        quantity, share = self.target.quantity, self.target.share
        what = {"params": "parameters", "macs": "multiply-accumulates"}.get(quantity, quantity)
        timed = quantity == "latency"
        return Limit(self._share, share, f"{share:g} of the {what}", blocks_first=timed, measured=timed)

    def _share(self, keep: Keep) -> float:
        """Return the share of the quantity that stays."""
        if self.target.quantity == "channels":
            total = sum(g.size for g in self.groups)
            cut = sum(int(np.count_nonzero(~mask)) for mask in keep.values())
            return 1 - cut / total if total else 1.0
        assert self.costs is not None
        if self.target.quantity == "latency":
            assert self.costs.latency is not None
            return self.costs.latency(keep)
        count = self.costs.params if self.target.quantity == "params" else self.costs.macs
        return count(keep) / max(count({}), 1)


def ranked(
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    prices: Mapping[str, float],
    *,
    round_to: int,
    limit: Limit,
) -> Found:
    """Rank the channels of all groups together, and keep as many as a limit allows (scope *joint*).

    Args:
        groups: those that may be cut.
        scores: group name -> importance of each of its channels.
        prices: group name -> what one of its channels costs, relative to others.
        round_to: block of widths.
        limit: what has to hold.

    Raises:
        OutOfReachError: the least that a joint ranking leaves is more than the target.
    """
    comparable = {g.name: _fair(scores[g.name]) / prices[g.name] for g in groups}
    sorted_ = {name: np.sort(values)[::-1] for name, values in comparable.items()}

    def worth(group: Group, width: int, wider: int) -> float:
        return math.log(float(sorted_[group.name][width:wider].mean()) + 1e-30)

    found = search(groups, scores, round_to, lambda own: _Joint(groups, comparable, own, round_to), limit)
    floors = [_floor(g.size, round_to) for g in groups]
    return exchanges.filled(
        found, groups, scores, round_to=round_to, limit=limit, worth=worth, alike=_ALIKE, floors=floors
    )


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

    def __init__(
        self,
        groups: Sequence[Group],
        comparable: Mapping[str, Array],
        allowed: Sequence[Array],
        round_to: int,
    ) -> None:
        self._allowed = allowed
        self._floors = [
            int(own[np.searchsorted(own, _floor(g.size, round_to))])
            for g, own in zip(groups, allowed, strict=True)
        ]
        fair = [comparable[g.name] for g in groups]
        self._owner = np.repeat(np.arange(len(groups)), [g.size for g in groups])
        self._order = np.argsort(-np.concatenate(fair), kind="stable") if fair else np.zeros(0, np.int64)
        self.levels: Array = np.arange(len(self._order) + 1)

    def widths(self, count: float) -> list[int]:
        """Return the widths that the ``count`` most important channels of all groups come to."""
        chosen = np.bincount(self._owner[self._order[: int(count)]], minlength=len(self._allowed))
        return [
            max(floor, nearest(allowed, int(n)))
            for n, floor, allowed in zip(chosen, self._floors, self._allowed, strict=True)
        ]


def _layers_worth(group: Group, width: int, wider: int) -> float:
    """Return the more, the smaller a share of its channels a group has, so that shares stay alike."""
    return -wider / group.size


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


def _why_whole(group: Group, target: Target, round_to: int) -> str:
    if group.size == 1:
        return "has one channel, and no layer is emptied"
    allowed = widths_of(group, round_to)
    if len(allowed) == 1:
        return f"has {group.size} channels, and fewer would be no multiple of {FAST}; --round-to 1 cuts them"
    if target.quantity == "channels" and target.share >= 1:
        return "everything is to be kept"
    return "is important enough to stay whole"

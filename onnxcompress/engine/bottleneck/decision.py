"""The decision: which channels stay, by α of each, or by a target that has to be met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.allocation import positions, widths

Keep = Mapping[str, Array]

_LATENCY_LEVELS = 8

_FILLINGS = 64
"""Times that every group may be widened by a block, where the target leaves so much."""


@dataclass(frozen=True)
class Decision:
    """Which channels stay.

    Attributes:
        keep: group name -> which of its channels stay, for groups that are cut.
        threshold: of α.
        share: of the target's quantity that stays; None without a target.
    """

    keep: Mapping[str, Array]
    threshold: float
    share: float | None = None


def decide(
    groups: Sequence[Group],
    alphas: Mapping[str, Array],
    threshold: float,
    *,
    round_to: int = 1,
    share: Callable[[Keep], float] | None = None,
    most: float = 1.0,
    few: bool = False,
) -> Decision:
    """Keep the channels whose α is over the threshold; with a target, those of the largest α that meet it.

    Args:
        groups: those that may be cut; none is emptied.
        alphas: group name -> α of each channel.
        threshold: used where there is no target; with one, it is moved to where the target is just met.
        round_to: widths are multiples of this, see :mod:`onnxcompress.engine.allocation`; the nearest is
            taken. 1: any width.
        share: what share of the target's quantity a cut leaves.
        most: the target.
        few: ``share`` takes long: ask only a few times.

    Raises:
        UnsupportedError: the target cannot be reached.
    """
    allowed = {g.name: widths(g.size, positions(g), round_to) for g in groups}

    def at(level: float) -> dict[str, Array]:
        return _masks(groups, alphas, allowed, level)

    if share is None:
        return Decision(at(threshold), threshold)
    levels = np.unique(np.concatenate([alphas[g.name] for g in groups])) if groups else np.zeros(1)
    if few:
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, 2**_LATENCY_LEVELS).astype(int))]
    levels = np.concatenate([[0.0], levels])  # at level 0 everything stays, at the last but one channel each
    low, high = 0, len(levels) - 1
    require(share(at(levels[high])), most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(at(levels[middle])) <= most + 1e-9 else (middle, high)
    keep = at(levels[high])
    return Decision(keep, float(levels[high]), share(keep))


def require(least: float, most: float) -> None:
    """Raise UnsupportedError where the least that can stay is more than the target."""
    if least > most + 1e-9:
        raise UnsupportedError(
            f"the target {most:g} cannot be reached",
            why=f"{least:.3g} stays with every gated group at its least width",
            fix="ask for less, or let more be cut: `onnxcompress inspect` says what is frozen",
        )


def narrowest(groups: Sequence[Group], round_to: int) -> dict[str, Array]:
    """Return masks of the least widths, whichever channels they keep."""
    allowed = {g.name: widths(g.size, positions(g), round_to) for g in groups}
    return _masks(groups, {g.name: np.ones(g.size) for g in groups}, allowed, math.inf)


def filled(
    decision: Decision,
    groups: Sequence[Group],
    alphas: Mapping[str, Array],
    *,
    round_to: int,
    share: Callable[[Keep], float],
    most: float,
) -> Decision:
    """Widen groups again, those with the largest α among what was given up first, while the target holds.

    Widths come in blocks: the threshold that just meets the target may leave much of it unused.
    """
    allowed = {g.name: widths(g.size, positions(g), round_to) for g in groups}
    keep, reached = dict(decision.keep), decision.share
    for _ in range(_FILLINGS):
        waiting = []
        for group in groups:
            width = int(keep[group.name].sum()) if group.name in keep else group.size
            wider = allowed[group.name][allowed[group.name] > width]
            if len(wider):
                ranked = np.sort(alphas[group.name])[::-1]
                value = float(np.log(ranked[width : wider[0]] + 1e-30).mean())
                waiting.append((value, group, int(wider[0])))
        changed = False
        for _, group, width in sorted(waiting, key=lambda w: -w[0]):
            mask = np.zeros(group.size, bool)
            mask[np.argsort(-alphas[group.name], kind="stable")[:width]] = True
            tried = {**keep, group.name: mask}
            found = share(tried)
            if found <= most + 1e-9:
                keep, reached, changed = tried, found, True
        if not changed:
            break
    keep = {name: mask for name, mask in keep.items() if not mask.all()}
    return Decision(keep, decision.threshold, reached)


def _masks(
    groups: Sequence[Group], alphas: Mapping[str, Array], allowed: Mapping[str, Array], level: float
) -> dict[str, Array]:
    """Return the masks of the channels over a level, their number rounded to an allowed width."""
    masks = {}
    for group in groups:
        alpha, possible = alphas[group.name], allowed[group.name]
        wanted = int((alpha > level).sum())
        width = int(possible[int(np.argmin(np.abs(possible - wanted)))])
        if width < group.size:
            mask = np.zeros(group.size, bool)
            mask[np.argsort(-alpha, kind="stable")[:width]] = True
            masks[group.name] = mask
    return masks

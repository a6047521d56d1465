"""The decision: which channels stay, by α of each, or by a target that has to be met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.bottleneck import Ranking
from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine import exchanges
from onnxcompress.engine.widths import Found, Limit, choices, masks, nearest, search

_ALIKE = math.log(10)
"""Difference of log α up to which channels of two groups may be exchanged."""


@dataclass(frozen=True)
class Decision:
    """Which channels stay.

    Attributes:
        keep: group name -> which of its channels stay, for groups that are cut.
        threshold: of α.
        share: of the target's quantity that stays; None without a target.
        by: what ranked the channels.
    """

    keep: Mapping[str, Array]
    threshold: float
    share: float | None = None
    by: Ranking = "alpha"


def decide(
    groups: Sequence[Group],
    alphas: Mapping[str, Array],
    threshold: float,
    *,
    round_to: int = 1,
    limit: Limit | None = None,
) -> Decision:
    """Keep the channels whose α is over the threshold; with a target, those of the largest α that meet it.

    Args:
        groups: those that may be cut; none is emptied.
        alphas: group name -> α of each channel.
        threshold: used where there is no target; with one, it is moved to where the target is just met.
        round_to: widths are multiples of this, see :mod:`onnxcompress.engine.widths`; the nearest is
            taken. 1: any width.
        limit: the target.

    Raises:
        UnsupportedError: the target cannot be reached.
    """
    if limit is None:
        kept = _Alphas(groups, alphas, choices(groups, round_to)).widths(threshold)
        return Decision(masks(groups, alphas, kept), threshold)
    found = search(groups, alphas, round_to, lambda allowed: _Alphas(groups, alphas, allowed), limit)
    return Decision(masks(groups, alphas, found.widths), found.level, found.share)


class _Alphas:
    """Thresholds on α: over the highest no channel lies, so that every group gets its least width."""

    def __init__(
        self, groups: Sequence[Group], alphas: Mapping[str, Array], allowed: Sequence[Array]
    ) -> None:
        self._alphas, self._allowed = [alphas[g.name] for g in groups], allowed
        # At the last, 0, everything stays.
        self.levels: Array = np.unique(np.concatenate([*self._alphas, [0.0]]))[::-1]

    def widths(self, level: float) -> list[int]:
        """Return the number of channels over a threshold, rounded to the nearest width."""
        return [
            nearest(allowed, int((alpha > level).sum()))
            for alpha, allowed in zip(self._alphas, self._allowed, strict=True)
        ]


def narrowest(groups: Sequence[Group], round_to: int) -> dict[str, Array]:
    """Return masks of the least widths, whichever channels they keep."""
    least = [int(allowed[0]) for allowed in choices(groups, round_to)]
    return masks(groups, {g.name: np.ones(g.size) for g in groups}, least)


def filled(
    decision: Decision,
    groups: Sequence[Group],
    alphas: Mapping[str, Array],
    *,
    round_to: int,
    limit: Limit,
) -> Decision:
    """Widen groups again, those with the largest α among what was given up first, while the target holds.

    Where much of the target is left nevertheless, a group is widened for another that gives up a block.
    """
    ranked = {g.name: np.sort(alphas[g.name])[::-1] for g in groups}

    def worth(group: Group, width: int, wider: int) -> float:
        return float(np.log(ranked[group.name][width:wider] + 1e-30).mean())

    kept = [int(decision.keep[g.name].sum()) if g.name in decision.keep else g.size for g in groups]
    assert decision.share is not None
    found = Found(decision.threshold, kept, decision.share)
    found = exchanges.filled(found, groups, alphas, round_to=round_to, limit=limit, worth=worth, alike=_ALIKE)
    return Decision(masks(groups, alphas, found.widths), decision.threshold, found.share)

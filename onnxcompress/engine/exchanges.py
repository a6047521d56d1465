"""Exchanges: where blocks leave much of a target unused, a group gives up a block for another to have one.

Widening groups one by one (:func:`onnxcompress.engine.widths.filled`) ends where no single one fits any more.
Of two layers of 32 channels in a row a block of either is half of the work; with a block less elsewhere it
may fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import permutations

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.engine import widths
from onnxcompress.engine.widths import Found, Limit, choices, masks

MUCH = 0.8
"""Share of a target that is used at least, where groups can be exchanged."""

_EXCHANGES, _FEW = 16, 16
"""Exchanges at most, and groups of a model that are tried: what blocks leave of a large one is little."""

Worth = Callable[[Group, int, int], float]
"""Log of what the channels are worth that a group has between two widths."""


def filled(
    found: Found,
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    *,
    round_to: int,
    limit: Limit,
    worth: Worth,
    alike: float,
    floors: Sequence[int] = (),
) -> Found:
    """Widen groups again, those first for whom it is worth most; where much is left, for a block of others.

    Args:
        found: what the search found.
        groups: those that were asked for.
        scores: group name -> rank of each of its channels; the highest stay.
        round_to: block of widths.
        limit: what has to hold; a measured one is asked too often by exchanges, and is filled only.
        worth: of widening a group from one width to another.
        alike: how much less what is won may be worth than what is given up.
        floors: the least width of each group; empty: the least that it may have.
    """
    fill = partial(widths.filled, groups=groups, scores=scores, round_to=round_to, limit=limit, worth=worth)
    found = fill(found)
    for _ in range(_EXCHANGES):
        if limit.measured or len(groups) > _FEW or found.share >= MUCH * limit.most:
            break
        better = _exchanged(
            found, groups, scores, floors, round_to=round_to, limit=limit, worth=worth, alike=alike
        )
        if better is None:
            break
        found = fill(better)
    return found


def _exchanged(
    found: Found,
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    floors: Sequence[int],
    *,
    round_to: int,
    limit: Limit,
    worth: Worth,
    alike: float,
) -> Found | None:
    """Return the cut nearest to the limit with one group wider, another narrower; None: none is nearer."""
    allowed, best = choices(groups, round_to), found
    if floors:
        allowed = [own[own >= floor] for own, floor in zip(allowed, floors, strict=True)]
    for up, down in permutations(range(len(groups)), 2):
        wider = allowed[up][allowed[up] > found.widths[up]]
        narrower = allowed[down][allowed[down] < found.widths[down]]
        if len(wider) and len(narrower):
            kept = list(found.widths)
            kept[up], kept[down] = int(wider[0]), int(narrower[-1])
            won = worth(groups[up], found.widths[up], kept[up])
            if worth(groups[down], kept[down], found.widths[down]) - won > alike:
                continue
            share = limit.share(masks(groups, scores, kept))
            if limit.holds(share) and share > best.share:
                best = Found(found.level, kept, share)
    return None if best is found else best

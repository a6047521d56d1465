"""Learning rates: which one to take, by the losses that short runs come to.

The largest rate that does about as well as the best is taken: the rate falls in training, which large ones
gain by and a short run does not show. How much worse it may be is bounded by what the network can lose: one
that has died gives the same answer whatever it is asked, and where all answers are much alike its loss may be
little above the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

AS_GOOD = 1.5
"""A loss up to this factor of the best is about as good."""

ALIVE = 0.5
"""And one that gives up no more than this share of what the best is below that of giving one answer."""

LOWER = (1 / 3, 1 / 10)
"""Factors of the lowest rate that are tried in turn while every run has done damage."""


def largest_good(losses: Mapping[float, float], idle: float) -> float:
    """Return the largest rate whose loss is about as good as the best.

    Args:
        losses: rate -> loss after a short run; infinite where it diverged.
        idle: loss of giving one answer to everything; infinite where it is not known.
    """
    best = min(losses.values())
    if math.isinf(best):
        return min(losses)  # all diverged
    most = AS_GOOD * best if best > 0 else best
    if best < idle < math.inf:
        most = min(most, best + ALIVE * (idle - best))
    return max(rate for rate, loss in losses.items() if loss <= most or loss == best)


def tried(
    rates: Sequence[float],
    before: float,
    idle: float,
    run: Callable[[float], float],
    stop: Callable[[], bool] = lambda: False,
) -> dict[float, float]:
    """Return the loss after a short run with each rate, and with lower ones while all have done damage.

    They have where the loss is over a factor of :data:`AS_GOOD` of what it was, or no less than that of
    giving one answer.

    Args:
        rates: the usual ones.
        before: the loss before.
        idle: see :func:`largest_good`.
        run: makes a short run from there and returns the loss after it; NaN counts as infinite.
        stop: asked after each run whether to leave it at that.
    """
    losses: dict[float, float] = {}
    enough = min(idle, AS_GOOD * before if before > 0 else before)
    for rate in (*rates, *(min(rates) * factor for factor in LOWER)):
        if len(losses) >= len(rates) and min(losses.values()) < enough:
            break
        found = run(rate)
        losses[rate] = found if math.isfinite(found) else math.inf
        if stop():
            break
    return losses

"""Ranks for a latency: those of the most work whose measured time is short enough.

How long two layers take does not follow from their work: it falls in steps of the widths that the kernels
compute at once, and small products wait for memory. So whole models are measured, at ranks that are best for
some share of the work, and the share is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.encodings.lowrank import LearnedRank, LowRank

MEASUREMENTS = 8
"""Largest number of candidates that are measured."""


def within_latency(
    projection: LearnedRank,
    weights: Sequence[Array],
    latency: Callable[[Sequence[Encoding]], float],
    share: float,
) -> list[Encoding]:
    """Return factors, or the weight itself where it stays whole, of a latency that is at most a share.

    Args:
        projection: of the constraint form, with costs in multiply-accumulates.
        weights: the weights.
        latency: measures the model with these encodings; the time of one inference over the original's.
        share: what it may be at most.

    Raises:
        UnsupportedError: it takes longer at the least ranks.
    """
    low, high = projection.least([w.shape for w in weights]), 1.0
    found = replace(projection, keep=low).project(weights)
    if (shortest := latency(found)) > share:
        raise UnsupportedError(
            f"{share:g} of the latency cannot be reached",
            why=f"{shortest:.3g} was measured with every layer that can be two at its least rank",
            fix="ask for less, or cut channels first: --method magnitude --method lc-lowrank",
        )
    for _ in range(MEASUREMENTS - 1):
        middle = (low + high) / 2
        candidate = replace(projection, keep=middle).project(weights)
        if _ranks(candidate) == _ranks(found) or latency(candidate) <= share:
            low, found = middle, candidate
        else:
            high = middle
    return found


def _ranks(encodings: Sequence[Encoding]) -> list[tuple[object, int] | None]:
    return [(e.layout, e.rank) if isinstance(e, LowRank) else None for e in encodings]

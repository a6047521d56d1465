"""Codebook over the weights that stay: at most κ of them, each one of K entries, all others zero.

With entries given, keeping a weight at its nearest entry c instead of at zero gains c(2w − c), which is
w² − (w − c)². The largest such gain is a convex function of w that is not positive at 0, so the weights that
are better off at zero, or than any κ others, form one run of the sorted weights around 0. What is left of it
and what is right of it are two clusterings of a prefix and of a suffix, with K entries between them. The
recursion of :mod:`segmentation` solves all prefixes at once, and the best pair is the global optimum.

Above a size the optimum is found on atoms (runs of neighbouring weights), and entries and support are then
improved in turn: entries by k-means on the support, the support by the κ largest gains. Neither makes it
worse.
"""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.kmeans import kmeans
from onnxcompress.csteps.segmentation import Prefixes, prefixes

_EXACT = 1 << 17
"""Largest (number of weights that stay) × K for which the problem is solved on all of them."""
_ATOMS = 1024
"""Atoms on each side of zero otherwise, or 4 K."""
_ROUNDS = 30
_SETTLED = 1e-7


def sparse_kmeans(weights: Array, kept: int, entries: int, *, previous: Array | None = None) -> Array:
    """Return the entries (K,), ascending float64, that gain most where ``kept`` weights stay.

    Args:
        weights: finite numbers, any shape and float type; at least one.
        kept: κ ≥ 1.
        entries: K ≥ 1. With fewer distinct weights among those that stay, an entry is repeated.
        previous: entries of an earlier solution of a similar problem, for a warm start.

    >>> sparse_kmeans(np.array([0.1, 2.0, -0.3, 1.0, 1.2]), 3, 2)
    array([1.1, 2. ])
    """
    ordered = np.sort(np.ravel(weights).astype(np.float64))
    kept = min(kept, len(ordered))
    scale = float(np.abs(ordered[[0, -1]]).max()) or 1.0
    ordered = ordered / scale
    found, exact = _of_atoms(ordered, kept, entries)
    if exact:
        return found * scale
    found, gain = _improved(ordered, found, kept, entries)
    if previous is not None:
        warm, warm_gain = _improved(ordered, np.sort(previous.astype(np.float64)) / scale, kept, entries)
        found = warm if warm_gain > gain else found
    return found * scale


def gains(weights: Array, entries: Array) -> Array:
    """Return what each weight at its nearest entry gains over zero, float64, in the weights' shape."""
    wide, known = weights.astype(np.float64), np.asarray(entries, np.float64)
    middles = (known[1:] + known[:-1]) / 2
    near = known[np.searchsorted(middles, wide)]
    return np.asarray(near * (2 * wide - near))


def support(weights: Array, entries: Array, kept: int) -> Array:
    """Return which weights stay, bool, in the weights' shape: the ``kept`` largest gains over 0.

    Of equal ones at the border the first stay.
    """
    gain = gains(np.ravel(weights), entries)
    stay = gain > 0
    if np.count_nonzero(stay) > kept:
        level = np.partition(gain, len(gain) - kept)[len(gain) - kept]
        stay = gain > level
        equal = np.flatnonzero(gain == level)
        stay[equal[: kept - int(np.count_nonzero(stay))]] = True
    return stay.reshape(np.shape(weights))


def _of_atoms(ordered: Array, kept: int, entries: int) -> tuple[Array, bool]:
    """Return the best entries if neighbouring weights stay or go together, and whether they are so alone."""
    exact = min(kept, len(ordered)) * entries <= _EXACT
    sides = [_atoms(ordered[:kept], exact, entries), _atoms(-ordered[::-1][:kept], exact, entries)]
    found = [prefixes(counts, sums, entries) for counts, sums in sides]
    left, right, clusters = _best_pair(sides[0][0], sides[1][0], found, kept, len(ordered))
    runs = [found[0].runs(left, clusters), found[1].runs(right, entries - clusters)]
    means = [_means(*side, ends) for side, ends in zip(sides, runs, strict=True)]
    result = np.sort(np.concatenate([means[0], -means[1]]))
    if not len(result):  # every weight is zero
        return np.zeros(entries), exact
    return np.concatenate([result, np.full(entries - len(result), result[-1])]), exact


def _atoms(side: Array, exact: bool, entries: int) -> tuple[Array, Array]:
    """Return counts and sums of atoms, from the far end to zero; where that is exact each is one weight."""
    if exact:
        return np.ones(len(side)), side
    atoms = max(_ATOMS, 4 * entries)
    even = np.linspace(0, len(side), atoms + 1).astype(np.int64)
    wide = np.searchsorted(side, np.linspace(side[0], side[-1], atoms + 1)[1:-1])
    edges = np.unique(np.concatenate([even, wide]))
    total = np.concatenate([[0.0], np.cumsum(side)])
    return np.diff(edges).astype(np.float64), np.diff(total[edges])


def _best_pair(
    left: Array, right: Array, found: list[Prefixes], kept: int, size: int
) -> tuple[int, int, int]:
    """Return how many atoms of each side stay, and how many of the entries belong to the left ones."""
    counts = [np.concatenate([[0.0], np.cumsum(side)]) for side in (left, right)]
    # A weight is on one side only: between them at least size − kept weights are zero.
    fits = np.searchsorted(counts[1], min(kept, size) - counts[0], side="right") - 1
    best, chosen = -np.inf, (0, 0, 0)
    entries = found[0].clusters
    for clusters in range(entries + 1):
        most, at = found[1].best(entries - clusters)
        total = found[0].gains(clusters) + most[np.maximum(fits, 0)]
        total[fits < 0] = -np.inf
        place = int(total.argmax())
        if total[place] > best:
            best, chosen = float(total[place]), (place, int(at[fits[place]]), clusters)
    return chosen


def _means(counts: Array, sums: Array, ends: Array) -> Array:
    """Return the mean of each run of atoms; ``ends`` are the edges of the runs, empty runs left out."""
    edges = np.unique(ends)
    total = [np.concatenate([[0.0], np.cumsum(values)])[edges] for values in (counts, sums)]
    return np.asarray(np.diff(total[1]) / np.diff(total[0]))


def _improved(ordered: Array, entries: Array, kept: int, count: int) -> tuple[Array, float]:
    """Improve entries and support in turn until that gains next to nothing; return entries and gain."""
    best = -np.inf
    found = entries
    for _ in range(_ROUNDS):
        gain = gains(ordered, entries)
        gain = gain[gain > 0]
        if len(gain) > kept:
            gain = np.partition(gain, len(gain) - kept)[len(gain) - kept :]
        total = float(gain.sum())
        if not total > best * (1 + _SETTLED):
            break
        best, found = total, entries
        stay = support(ordered, entries, kept)
        if not stay.any():
            break
        entries = kmeans(ordered[stay], count, previous=entries)
    return found, max(best, 0.0)

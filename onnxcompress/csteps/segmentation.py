"""Exact one-dimensional k-means over ordered atoms: dynamic programming by divide and conquer.

With cost(i, j) = Σx² − (Σx)²/n of the atoms i … j−1, minimising the total cost is maximising the sum of
gains (Σx)²/n. Gains satisfy the quadrangle inequality, so the best last cut of a prefix never moves left as
the prefix grows, and each layer needs O(B log B) instead of O(B²) evaluations (Wu 1991; Grønlund et al.
2017). A cluster pinned to the value 0 gains nothing; a second state keeps track of whether it was used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array


def segment(counts: Array, sums: Array, clusters: int, *, zero: bool = False) -> tuple[Array, float]:
    """Cut B ordered atoms into ``clusters`` runs, one of them pinned to 0 if ``zero``.

    Args:
        counts: (B,) numbers in each atom, all positive.
        sums: (B,) their sums.
        clusters: number of runs K; runs may be empty.
        zero: whether one run has the value 0 instead of its mean.

    Returns:
        The K − 1 inner cuts (atom indices, ascending) and the total gain.
    """
    cuts, gains = segment_rows(counts[None], sums[None], clusters, zero=zero)
    return cuts[0], float(gains[0])


def segment_rows(counts: Array, sums: Array, clusters: int, *, zero: bool = False) -> tuple[Array, Array]:
    """Solve :func:`segment` for each row of (R, B) atoms; return cuts (R, K − 1) and gains (R,).

    The rows lie one after the other in flat arrays of R (B + 1) edges, so that each step of the recursion
    handles all of them.
    """
    rows, size = counts.shape[0], counts.shape[1] + 1
    edge = np.zeros((rows, 1))
    C = np.concatenate([edge, np.cumsum(counts, axis=1)], axis=1).reshape(-1)
    S = np.concatenate([edge, np.cumsum(sums, axis=1)], axis=1).reshape(-1)
    starts = size * np.arange(rows)
    free = np.square(S) / np.maximum(C, 0.5)
    free_back = [np.zeros(len(C), dtype=np.int64)]
    pinned = np.zeros(len(C))
    pinned_back = [np.full(len(C), -1, dtype=np.int64)]
    for _ in range(1, clusters):
        if zero:
            grown, back = _layer(pinned, C, S, starts, size)
            best, best_at = _running_maximum(free, starts, size)
            take = best > grown
            pinned = np.where(take, best, grown)
            pinned_back.append(np.where(take, -1 - best_at, back))
        free, back = _layer(free, C, S, starts, size)
        free_back.append(back)
    cuts = np.zeros((rows, clusters - 1), dtype=np.int64)
    state, position = np.full(rows, zero), starts + size - 1
    for k in range(clusters - 1, 0, -1):
        back_to = free_back[k][position]
        if zero:
            back_to = np.where(state, pinned_back[k][position], back_to)
        state = state & (back_to >= 0)
        position = np.where(back_to < 0, -1 - back_to, back_to)
        cuts[:, k - 1] = position - starts
    return cuts, (pinned if zero else free)[starts + size - 1]


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The best clusterings of every prefix of one sequence of B atoms, with up to K clusters.

    Attributes:
        clusters: K.
    """

    clusters: int
    _gains: tuple[Array, ...]
    _backs: tuple[Array, ...]

    def gains(self, clusters: int) -> Array:
        """Return the gain of each prefix, (B + 1,), by its number of atoms; −inf where there is none."""
        return self._gains[clusters].copy()

    def best(self, clusters: int) -> tuple[Array, Array]:
        """Return for each number of atoms the largest gain of any prefix up to there, and that prefix."""
        gains = self._gains[clusters]
        best, at = _running_maximum(gains, np.zeros(1, dtype=np.int64), len(gains))
        return best, at

    def runs(self, prefix: int, clusters: int) -> Array:
        """Return the edges of the clusters of one prefix, ascending, the first 0, the last ``prefix``."""
        edges = [prefix]
        for k in range(clusters, 0, -1):
            edges.append(int(self._backs[k][edges[-1]]))
        return np.array(edges[::-1], dtype=np.int64)


def prefixes(counts: Array, sums: Array, clusters: int) -> Prefixes:
    """Cluster every prefix of B ordered atoms, (B,) counts and sums as in :func:`segment`."""
    size = len(counts) + 1
    C = np.concatenate([[0.0], np.cumsum(counts)])
    S = np.concatenate([[0.0], np.cumsum(sums)])
    start = np.zeros(1, dtype=np.int64)
    nothing = np.full(size, -np.inf)
    nothing[0] = 0.0
    gains, backs = [nothing], [np.zeros(size, dtype=np.int64)]
    if clusters:
        gains.append(np.square(S) / np.maximum(C, 0.5))
        backs.append(np.zeros(size, dtype=np.int64))
    for _ in range(1, clusters):
        grown, back = _layer(gains[-1], C, S, start, size)
        gains.append(grown)
        backs.append(back)
    return Prefixes(clusters, tuple(gains), tuple(backs))


def _running_maximum(values: Array, starts: Array, size: int) -> tuple[Array, Array]:
    """Return, for every prefix of each row, the largest value and where it is (first occurrence)."""
    rows = values.reshape(-1, size)
    best = np.maximum.accumulate(rows, axis=1)
    rises = np.concatenate([np.ones((len(rows), 1), bool), rows[:, 1:] > best[:, :-1]], axis=1)
    places = np.maximum.accumulate(np.where(rises, np.arange(size), 0), axis=1) + starts[:, None]
    return best.reshape(-1), places.reshape(-1)


def _layer(previous: Array, C: Array, S: Array, starts: Array, size: int) -> tuple[Array, Array]:
    """Return best[j] = max over i ≤ j of previous[i] + gain(i, j), and the arg max, for all j of all rows."""
    best = np.empty(len(C))
    back = np.zeros(len(C), dtype=np.int64)
    low, high = starts, starts + size - 1
    first, final = low, high
    while len(low):
        middle = (low + high) // 2
        end = np.minimum(final, middle)
        lengths = end - first + 1
        offsets = np.cumsum(lengths) - lengths
        i = np.arange(int(lengths.sum())) - np.repeat(offsets - first, lengths)
        j = np.repeat(middle, lengths)
        total = previous[i] + np.square(S[j] - S[i]) / np.maximum(C[j] - C[i], 0.5)
        top = np.maximum.reduceat(total, offsets)
        hits = np.flatnonzero(total == np.repeat(top, lengths))
        at = i[hits[np.searchsorted(hits, offsets)]]
        best[middle], back[middle] = top, at
        left, right = low < middle, middle < high
        low, high, first, final = (
            np.concatenate([low[left], middle[right] + 1]),
            np.concatenate([middle[left] - 1, high[right]]),
            np.concatenate([first[left], at[right]]),
            np.concatenate([at[left], final[right]]),
        )
    return best, back

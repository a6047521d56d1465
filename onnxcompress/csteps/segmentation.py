"""Exact one-dimensional k-means over ordered atoms: dynamic programming by divide and conquer.

With cost(i, j) = Σx² − (Σx)²/n of the atoms i … j−1, minimising the total cost is maximising the sum of
gains (Σx)²/n. Gains satisfy the quadrangle inequality, so the best last cut of a prefix never moves left as
the prefix grows, and each layer needs O(B log B) instead of O(B²) evaluations (Wu 1991; Grønlund et al.
2017). A cluster pinned to the value 0 gains nothing; a second state keeps track of whether it was used.
"""

from __future__ import annotations

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
    C = np.concatenate([[0.0], np.cumsum(counts)])
    S = np.concatenate([[0.0], np.cumsum(sums)])
    size = len(C)
    free = np.concatenate([[0.0], np.square(S[1:]) / C[1:]])
    free_back = [np.zeros(size, dtype=np.int64)]
    pinned = np.zeros(size)
    pinned_back = [np.full(size, -1, dtype=np.int64)]
    for _ in range(1, clusters):
        if zero:
            grown, back = _layer(pinned, C, S)
            best, best_at = _running_maximum(free)
            take = best > grown
            pinned = np.where(take, best, grown)
            pinned_back.append(np.where(take, -1 - best_at, back))
        free, back = _layer(free, C, S)
        free_back.append(back)
    cuts = np.zeros(clusters - 1, dtype=np.int64)
    state, position = zero, size - 1
    for k in range(clusters - 1, 0, -1):
        back_to = int((pinned_back if state else free_back)[k][position])
        if back_to < 0:
            state, back_to = False, -1 - back_to
        cuts[k - 1] = position = back_to
    return cuts, float((pinned if zero else free)[-1])


def _running_maximum(values: Array) -> tuple[Array, Array]:
    """Return, for every prefix, the largest value and where it is (first occurrence)."""
    best = np.maximum.accumulate(values)
    rises = np.concatenate([[True], values[1:] > best[:-1]])
    return best, np.maximum.accumulate(np.where(rises, np.arange(len(values)), 0))


def _layer(previous: Array, C: Array, S: Array) -> tuple[Array, Array]:
    """Return best[j] = max over i ≤ j of previous[i] + gain(i, j), and the arg max, for all j."""
    last = len(C) - 1
    best = np.empty(last + 1)
    back = np.zeros(last + 1, dtype=np.int64)
    low, high = np.array([0]), np.array([last])
    first, final = np.array([0]), np.array([last])
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

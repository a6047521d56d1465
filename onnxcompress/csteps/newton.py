"""Newton steps on the optimality conditions of one-dimensional k-means.

At an optimum every cut lies midway between the means of its two runs, ``x(bₖ) = (cₖ + cₖ₊₁) / 2``. Lloyd's
algorithm lets a change in one run diffuse to the others in O(K²) steps; the conditions are tridiagonal in
the cuts, so that Newton's method moves all of them at once.
"""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.sortedrows import SortedRows

_STEPS = 12
_DAMPING = (1.0, 0.5, 0.2)


def newton(data: SortedRows, cuts: Array, *, zero: bool = False) -> tuple[Array, Array]:
    """Return cuts (rows, K − 1) at least as good as those given, and their gains (rows,)."""
    gains = total_gain(data, cuts, zero=zero)
    for _ in range(_STEPS):
        step = _step(data, cuts, zero)
        improved = np.zeros(data.rows, dtype=bool)
        for damping in _DAMPING:
            trial = np.clip(np.round(cuts + damping * step).astype(np.int64), 0, data.n)
            trial = np.maximum.accumulate(trial, axis=1)
            found = total_gain(data, trial, zero=zero)
            better = (found > gains) & ~improved
            cuts = np.where(better[:, None], trial, cuts)
            gains = np.where(better, found, gains)
            improved |= better
        if not improved.any():
            break
    return cuts, gains


def total_gain(data: SortedRows, cuts: Array, *, zero: bool) -> Array:
    """Return Σ (Σx)²/n over the runs, without the run that loses least when its value becomes 0."""
    counts, sums = _runs(data, cuts)
    gain = np.square(sums) / np.maximum(counts, 1)
    total: Array = gain.sum(axis=1)
    return total - gain.min(axis=1) if zero else total


def _runs(data: SortedRows, cuts: Array) -> tuple[Array, Array]:
    edges = np.concatenate([np.zeros((data.rows, 1), int), cuts, np.full((data.rows, 1), data.n)], axis=1)
    return np.diff(edges, axis=1), np.diff(data.sums(edges), axis=1)


def _step(data: SortedRows, cuts: Array, zero: bool) -> Array:
    counts, sums = _runs(data, cuts)
    size = np.maximum(counts, 1)
    means = sums / size
    moves = np.ones_like(means)
    if zero:
        pinned = np.argmin(np.square(sums) / size, axis=1)
        everyone = np.arange(data.rows)
        means[everyone, pinned] = moves[everyone, pinned] = 0.0
    at = _value(data, cuts.astype(np.float64) - 0.5)
    reach = np.maximum(np.minimum(counts[:, 1:], counts[:, :-1]) / 2, 1)
    slope = (_value(data, cuts - 0.5 + reach) - _value(data, cuts - 0.5 - reach)) / (2 * reach)
    below = moves[:, :-1] * (at - means[:, :-1]) / size[:, :-1]
    above = moves[:, 1:] * (means[:, 1:] - at) / size[:, 1:]
    inner = cuts.shape[1]
    jacobian = np.zeros((data.rows, inner, inner))
    k = np.arange(inner)
    jacobian[:, k, k] = np.maximum(slope - (below + above) / 2, 1e-3 * slope) + 1e-300
    jacobian[:, k[1:], k[:-1]] = -above[:, :-1] / 2
    jacobian[:, k[:-1], k[1:]] = -below[:, 1:] / 2
    residual = at - (means[:, :-1] + means[:, 1:]) / 2
    scale = np.abs(jacobian).max(axis=2, keepdims=True)
    try:
        step = -np.linalg.solve(jacobian / scale, residual[:, :, None] / scale)[:, :, 0]
    except np.linalg.LinAlgError:
        return np.zeros_like(residual)
    return np.where(np.isfinite(step), step, 0.0)


def _value(data: SortedRows, positions: Array) -> Array:
    """Interpolate the sorted values at fractional positions (rows, …)."""
    clipped = np.clip(positions, 0, data.n - 1)
    low = clipped.astype(np.int64)
    high = np.minimum(low + 1, data.n - 1)
    left = np.take_along_axis(data.values, low, axis=1).astype(np.float64)
    right = np.take_along_axis(data.values, high, axis=1).astype(np.float64)
    return left + (clipped - low) * (right - left)

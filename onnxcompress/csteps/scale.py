"""The best scale of a fixed codebook: ``min over a > 0 and codes of Σ (w − a c)²``.

For given codes the best scale is S1/S2 with S1 = Σ w c, S2 = Σ c², and the distortion is Σ w² − S1²/S2. As a
falls from infinity, a weight changes its nearest entry only at a = w / m, m a midpoint between neighbouring
entries of the sign of w. Sweeping these breakpoints in order meets every assignment that can be optimal
(methods.md section 2): exact in O(N K log N).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.sortedrows import SortedRows

_SWEPT = 1 << 21
"""Up to this many breakpoints are swept exactly; larger problems are searched from a fine grid."""
_BATCH = 1 << 20
_GRID = 1024
_STARTS = 16
_FIXED_POINT = 60


def best_scales(rows: Array, levels: Array) -> Array:
    """Return the best scale of each row, (R,) float64; 0 where no positive scale helps.

    Args:
        rows: (R, n) finite numbers.
        levels: (K,) fixed entries, ascending.

    >>> best_scales(np.array([[2.0, -2.0, 4.0]]), np.array([-1.0, 1.0]))
    array([2.66666667])
    """
    levels = np.asarray(levels, dtype=np.float64)
    count, n = rows.shape
    per_row = n * max(1, len(levels) - 1)
    if n == 0:
        return np.zeros(count)
    if count * per_row <= _SWEPT:
        batch = max(1, _BATCH // per_row)
        swept = (rows[i : i + batch].astype(np.float64) for i in range(0, count, batch))
        return np.concatenate([_sweep(part, levels) for part in swept])
    batch = max(1, _BATCH // n)
    return np.concatenate([_search(rows[i : i + batch], levels) for i in range(0, count, batch)])


def _sweep(rows: Array, levels: Array) -> Array:
    middles = (levels[1:] + levels[:-1]) / 2
    up = np.flatnonzero(middles > 0)
    down = np.flatnonzero(middles < 0)[::-1]
    width = max(len(up), len(down))
    size, positive = np.abs(rows), rows > 0
    # Entry nearest to 0 on the side of each weight, where every weight starts.
    first_up, first_down = levels[np.sum(middles <= 0)], levels[np.sum(middles < 0)]
    start = np.where(positive, first_up, first_down)
    start = np.where(rows == 0, levels[np.abs(levels).argmin()], start)
    first = [(rows * start).sum(axis=1), np.square(start).sum(axis=1)]
    thresholds, products, squares = np.zeros((3, 2, width))
    for side, at, sign in ((1, up, 1), (0, down, -1)):
        new, old = levels[at + (sign > 0)], levels[at + (sign < 0)]
        thresholds[side, : len(at)] = 1 / np.abs(middles[at])
        products[side, : len(at)] = sign * (new - old)
        squares[side, : len(at)] = np.square(new) - np.square(old)
    sides = positive.astype(np.int64)
    flat = (len(rows), -1)
    breakpoints = (size[:, :, None] * thresholds[sides]).reshape(flat)
    order = np.argsort(-breakpoints, axis=1, kind="stable")
    jumps = [
        (size[:, :, None] * products[sides]).reshape(flat),
        np.broadcast_to(np.where((size > 0)[:, :, None], squares[sides], 0.0), (*rows.shape, width)).reshape(
            flat
        ),
    ]
    sums = [
        np.cumsum(np.concatenate([f[:, None], np.take_along_axis(j, order, axis=1)], axis=1), axis=1)
        for f, j in zip(first, jumps, strict=True)
    ]
    valid = (sums[0] > 0) & (sums[1] > 0)
    score = np.where(valid, np.square(sums[0]) / np.where(valid, sums[1], 1.0), -1.0)
    best = score.argmax(axis=1)[:, None]
    s1, s2 = (np.take_along_axis(s, best, axis=1)[:, 0] for s in sums)
    ok = np.take_along_axis(valid, best, axis=1)[:, 0]
    return np.where(ok, s1 / np.where(ok, s2, 1.0), 0.0)


def _search(rows: Array, levels: Array) -> Array:
    """Evaluate a fine grid of scales, then alternate scale and codes from the best of them."""
    data = SortedRows(rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows)
    largest = np.abs(data.values[:, [0, -1]]).max(axis=1).astype(np.float64)
    steps = np.abs(levels[levels != 0])
    count, starts = (_GRID, _STARTS) if data.rows == 1 else (_GRID // 8, _STARTS // 4)
    count = count // 3 if len(levels) > 32 else count
    grid = np.geomspace(5e-3 / steps.max(), 2 / steps.min(), count)
    find = _finder(data)
    score, moved = _evaluate(data, find, levels, largest[:, None] * grid)
    tops = np.take_along_axis(moved, np.argsort(-score, axis=1, kind="stable")[:, :starts], axis=1)
    ends = np.abs(levels[[0, -1]])  # scales that put the largest weight on the last level
    tops = np.concatenate([tops, largest[:, None] / ends[ends > 0]], axis=1)
    for _ in range(_FIXED_POINT):
        score, moved = _evaluate(data, find, levels, tops)
        if np.array_equal(moved, tops):
            break
        tops = moved
    best = score.argmax(axis=1)[:, None]
    found = np.take_along_axis(moved, best, axis=1)[:, 0]
    return np.where(np.take_along_axis(score, best, axis=1)[:, 0] > 0, found, 0.0)


def _finder(data: SortedRows) -> Callable[[Array], Array]:
    """Return ``searchsorted`` for all rows at once: each row is shifted into a range of its own."""
    if data.rows == 1:
        row = data.values[0]
        return lambda points: np.searchsorted(row, points[0].astype(row.dtype), side="right")[None]
    values = data.values.astype(np.float64)
    span = 2.1 * max(float(np.abs(values).max()), 1e-300)
    shift = span * np.arange(data.rows)
    keys = (values + shift[:, None]).reshape(-1)

    def find(points: Array) -> Array:
        inside = np.clip(points, -span / 2.05, span / 2.05)
        shifted = inside + shift.reshape(-1, *[1] * (points.ndim - 1))
        start = data.n * np.arange(data.rows).reshape(-1, *[1] * (points.ndim - 1))
        return np.asarray(np.clip(np.searchsorted(keys, shifted, side="right") - start, 0, data.n))

    return find


def _evaluate(
    data: SortedRows, find: Callable[[Array], Array], levels: Array, scales: Array
) -> tuple[Array, Array]:
    """Return S1²/S2 and S1/S2 of the nearest assignment for (R, A) scales (the scale itself if S1 ≤ 0)."""
    middles = (levels[1:] + levels[:-1]) / 2
    cuts = find(scales[:, :, None] * middles)
    ends = np.full((*scales.shape, 1), data.n)
    edges = np.concatenate([np.zeros_like(ends), cuts, ends], axis=2)
    s1 = np.diff(data.sums(edges), axis=2) @ levels
    s2 = np.diff(edges, axis=2) @ np.square(levels)
    valid = (s1 > 0) & (s2 > 0)
    safe = np.where(valid, s2, 1.0)
    return np.where(valid, np.square(s1) / safe, -1.0), np.where(valid, s1 / safe, scales)

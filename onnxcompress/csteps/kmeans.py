"""Optimal one-dimensional k-means: the C step of an adaptive codebook, with or without a pinned 0.

Small problems are solved exactly (:mod:`segmentation` on the distinct values). Larger ones start from the
exact solution on a few hundred atoms and let :mod:`refinement` move the cuts between the numbers
themselves; the distortion is within 1e-4 of the optimum (tested against the exact solution).
"""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.refinement import best_cuts, refine
from onnxcompress.csteps.segmentation import segment, segment_rows
from onnxcompress.csteps.sortedrows import SortedRows, distinct, distinct_counts

_EXACT = 400_000
"""Largest (number of distinct weights) × K for which the problem is solved exactly on all of them."""
_EXACT_VALUES = 8192
"""Most distinct weights for that: with more, local optima are too much alike to matter."""
_EXACT_ROWS = 20_000
"""The same for each of many rows, which are solved together."""
_BATCH = 1 << 15
"""Weights of many rows that are solved at once."""
_EXACT_TWO = 1 << 16
"""The same for two entries, where trying every cut is fast."""
_ATOMS, _NOISY = 256, 1 << 15
"""Atoms of the start; four times as many for up to so many weights, where chance makes many local optima."""
_MANY = 64
"""Above this many entries the start is their asymptotic density; finding a better one would take longer."""


def kmeans(weights: Array, entries: int, *, zero: bool = False, previous: Array | None = None) -> Array:
    """Return the entries (K,), ascending float64, that minimise ``Σ minₖ (w − cₖ)²``.

    Args:
        weights: finite numbers, any shape and float type; at least one.
        entries: K ≥ 1. With fewer distinct weights than K, the largest entry is repeated.
        zero: one entry is exactly 0 (methods.md section 2, "codebook with a pinned 0 entry").
        previous: (K,) entries of an earlier solution of a similar problem, for a warm start.

    >>> kmeans(np.array([1.0, 2.0, 9.0, 11.0]), 2)
    array([ 1.5, 10. ])
    """
    rows = kmeans_rows(np.reshape(weights, (1, -1)), entries, zero=zero, previous=_row(previous))
    found: Array = rows[0]
    return found


def kmeans_rows(rows: Array, entries: int, *, zero: bool = False, previous: Array | None = None) -> Array:
    """Solve one problem for each row of (R, n) numbers; returns (R, K) ascending entries, float64.

    All rows are solved together. ``previous`` is (R, K).
    """
    if rows.shape[1] == 0:
        return np.zeros((rows.shape[0], entries))
    wide = rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)
    scale = scale_of(wide)
    data = SortedRows(wide if scale == 1 else wide / scale)
    shift = np.zeros((len(rows), 1))
    if not zero and wide.dtype == np.float64:
        shift = np.median(data.values[:, :: max(1, data.n // 64)], axis=1)[:, None]
        data = SortedRows(data.values - shift)
    start = None if previous is None else previous.astype(np.float64) / scale - shift
    return (_solve(data, entries, zero, start) + shift) * scale


def _row(previous: Array | None) -> Array | None:
    return None if previous is None else np.reshape(previous, (1, -1))


def scale_of(rows: Array) -> float:
    """Return a power of two to divide by where squares could leave float64's range, 1 otherwise."""
    largest = float(np.abs(rows).max())
    if largest == 0 or 1e-100 < largest < 1e100:
        return 1.0
    return float(2.0 ** np.floor(np.log2(largest)))


def _solve(data: SortedRows, entries: int, zero: bool, previous: Array | None) -> Array:
    if entries == 1:
        return np.zeros((data.rows, 1)) if zero else data.sums(np.full((data.rows, 1), data.n)) / data.n
    result = np.empty((data.rows, entries))
    large = []
    for index in range(data.rows):
        values = distinct(data.values[index], entries)
        chosen = None if values is None else _few(values.astype(np.float64), entries, zero)
        if chosen is None:
            large.append(index)
        else:
            result[index] = chosen
    if not large:
        return result
    rest = data if len(large) == data.rows else SortedRows(data.values[large])
    cuts = _exact(rest, entries, zero)
    if cuts is None:
        cuts = _approximate(rest, entries, zero, None if previous is None else previous[large])
    result[large] = _means(rest, cuts, zero)
    return result


def _few(values: Array, entries: int, zero: bool) -> Array | None:
    """Every distinct value (and a pinned 0) is an entry, the last one fills up; None if they are too many."""
    chosen = np.union1d(values, [0.0]) if zero else values
    if len(chosen) > entries:
        return None
    return np.concatenate([chosen, np.full(entries - len(chosen), chosen[-1])])


def _exact(data: SortedRows, entries: int, zero: bool) -> Array | None:
    """Return the optimal cuts, or None where finding them would take too long."""
    if entries == 2 and data.values.size <= _EXACT_TWO:
        return _two(data, zero)
    if data.rows == 1:
        atoms = distinct_counts(data.values[0], min(_EXACT // entries, _EXACT_VALUES))
        if atoms is None:
            return None
        values, counts = atoms
        cuts, _ = segment(counts.astype(np.float64), counts * values, entries, zero=zero)
        return np.asarray(np.concatenate([[0], np.cumsum(counts)])[cuts][None, :])
    if data.n * entries > _EXACT_ROWS:
        return None
    batch = max(1, _BATCH // data.n)
    parts = [data.values[i : i + batch].astype(np.float64) for i in range(0, data.rows, batch)]
    return np.concatenate([segment_rows(np.ones_like(p), p, entries, zero=zero)[0] for p in parts])


def _approximate(data: SortedRows, entries: int, zero: bool, previous: Array | None) -> Array:
    cuts, gains = refine(data, _start(data, entries, zero), zero=zero)
    if previous is not None:
        warm, warm_gains = refine(data, _cuts_between(data, previous), zero=zero)
        cuts = np.where((warm_gains > gains)[:, None], warm, cuts)
    return cuts


def _two(data: SortedRows, zero: bool) -> Array:
    """Return the best single cut by trying all of them: O(n)."""
    position = np.arange(data.n + 1)
    sums = data.sums(np.broadcast_to(position, (data.rows, data.n + 1)))
    left = np.square(sums) / np.maximum(position, 1)
    right = np.square(sums[:, -1:] - sums) / np.maximum(data.n - position, 1)
    return np.asarray((np.maximum(left, right) if zero else left + right).argmax(axis=1)[:, None])


def _start(data: SortedRows, entries: int, zero: bool) -> Array:
    """Return the optimal cuts among the edges of atoms: half of equal counts, half of equal widths."""
    atoms = max(64 if data.rows > 1 else _ATOMS if data.n > _NOISY else 4 * _ATOMS, 4 * entries)
    edges = _edges(data, atoms)
    if entries > _MANY:
        return _edges(data, entries)
    if data.rows > 1:
        candidates = np.broadcast_to(edges[:, None, :], (data.rows, entries - 1, edges.shape[1]))
        return best_cuts(data, candidates, zero=zero)[0]
    inner = np.unique(np.concatenate([[0], edges[0], [data.n]]))
    sums = np.diff(data.sums(inner[None])[0])
    cuts, _ = segment(np.diff(inner).astype(np.float64), sums, entries, zero=zero)
    return inner[cuts][None, :]


def _edges(data: SortedRows, atoms: int) -> Array:
    """Return (rows, atoms − 1) edges at equal steps of the optimal density of entries.

    The best density of entries is proportional to the cube root of the density of the weights (Panter and
    Dite 1951). It is integrated over fine cells, half of equal counts and half of equal widths, so that
    neither the bulk nor a heavy tail is seen too coarsely.
    """
    edges = np.empty((data.rows, atoms - 1), dtype=np.int64)
    counts = np.linspace(0, data.n, 4 * atoms + 1).astype(np.int64)
    steps = np.linspace(0.0, 1.0, 4 * atoms + 1)[1:-1]
    for index, row in enumerate(data.values):
        low, high = float(row[0]), float(row[-1])
        widths = np.searchsorted(row, (low + steps * (high - low)).astype(row.dtype))
        cells = np.unique(np.concatenate([counts, widths]))
        values = row[np.minimum(cells, data.n - 1)].astype(np.float64)
        density = np.cbrt(np.diff(cells) * np.square(np.diff(values)))
        for _ in range(8):  # a cell that asks for more than one atom gets one: it is not split further
            density = np.minimum(density, density.sum() / atoms)
        measure = np.cumsum(density)
        targets = measure[-1] * np.arange(1, atoms) / atoms
        edges[index] = cells[1 + np.minimum(np.searchsorted(measure, targets), len(measure) - 1)]
    return edges


def _cuts_between(data: SortedRows, entries: Array) -> Array:
    """Return the cuts at the midpoints between the entries, (rows, K − 1)."""
    middles = np.sort(entries, axis=1)
    middles = ((middles[:, 1:] + middles[:, :-1]) / 2).astype(data.values.dtype)
    return np.stack([np.searchsorted(v, m) for v, m in zip(data.values, middles, strict=True)])


def _means(data: SortedRows, cuts: Array, zero: bool) -> Array:
    """Return the mean of each run, ascending; empty runs repeat a neighbour; one run is 0 if pinned."""
    edges = np.concatenate([np.zeros((data.rows, 1), int), cuts, np.full((data.rows, 1), data.n)], axis=1)
    counts = np.diff(edges, axis=1)
    sums = np.diff(data.sums(edges), axis=1)
    means = sums / np.maximum(counts, 1)
    means[counts == 0] = np.nan
    if zero:
        pinned = _cheapest_zero(sums, counts)
        means[np.arange(data.rows), pinned] = 0.0
    means.sort(axis=1)
    last = np.nanmax(means, axis=1, keepdims=True)
    return np.asarray(np.where(np.isnan(means), last, means))


def _cheapest_zero(sums: Array, counts: Array) -> Array:
    """Return the run that loses least when its value becomes 0: the one the pinned state was used for."""
    gains = np.square(sums) / np.maximum(counts, 1)
    return np.asarray(np.argmin(np.where(counts > 0, gains, 0.0), axis=1))

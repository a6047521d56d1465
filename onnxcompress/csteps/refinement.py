"""Moving all cuts of a one-dimensional clustering at once, by dynamic programming over candidate cuts.

Lloyd's algorithm moves each cut to the next midpoint and stops in the nearest local optimum. Here every cut
gets a set of candidate positions, and the best combination over all sets is found exactly. The sets hold
steps of every size around the cut *and* positions in the neighbouring clusters, so that "merge two clusters
here, split one there" is a single move. One round costs K·w² evaluations for w candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.sortedrows import SortedRows

_ROUNDS = 60
_CYCLES = 8
_CYCLE_SETTLED = 1e-5
"""The stages are repeated while all of them together lower the distortion by more than this fraction."""
_BATCH = 1 << 21
"""Evaluations per layer in one batch of rows: bounds the memory."""


def refine(data: SortedRows, cuts: Array, *, zero: bool = False) -> tuple[Array, Array]:
    """Return cuts (rows, K − 1) that no move within the candidate sets improves, and their gains (rows,)."""
    cuts = cuts.copy()
    gains = np.full(data.rows, -np.inf)
    active = np.arange(data.rows)
    for _ in range(_CYCLES):
        before = gains.copy()
        for candidates, settled in _STAGES:
            _improve(data, cuts, gains, active, candidates=candidates, settled=settled, zero=zero)
        worth = _CYCLE_SETTLED * np.maximum(data.square_sums() - gains, 0.0)
        active = active[(gains - before > worth)[active]]
        if not len(active):
            break
    return cuts, gains


def _improve(
    data: SortedRows,
    cuts: Array,
    gains: Array,
    rows: Array,
    *,
    candidates: Callable[[Array, int], Array],
    settled: float,
    zero: bool,
) -> None:
    """Move the cuts of these rows within one kind of candidate set until that gains little; in place."""
    squares = data.square_sums()
    active = rows
    for _ in range(_ROUNDS):
        moved, found = best_cuts(data, candidates(cuts[active], data.n), zero=zero, rows=active)
        better = found > gains[active]
        still = found - gains[active] > settled * np.maximum(squares[active] - found, 0.0)
        cuts[active[better]], gains[active[better]] = moved[better], found[better]
        active = active[still & better]
        if not len(active):
            break


def best_cuts(
    data: SortedRows, candidates: Array, *, zero: bool, rows: Array | None = None
) -> tuple[Array, Array]:
    """Choose one cut from each set so that the total gain is largest.

    Args:
        data: the sorted problems.
        candidates: (rows, K − 1, w) positions from 0 to n; combinations that are not ascending are skipped.
        zero: whether one run is pinned to the value 0.
        rows: which rows of ``data`` the candidates belong to; None: all of them.

    Returns:
        cuts (rows, K − 1) and gains (rows,).
    """
    rows = np.arange(data.rows) if rows is None else rows
    width = candidates.shape[2]
    batch = max(1, _BATCH // (width * width))
    parts = []
    for start in range(0, len(rows), batch):
        members = rows[start : start + batch]
        positions = candidates[start : start + batch]
        sums = _sums(data, positions, members)
        ends = np.full((len(members), 1), data.n)
        parts.append(_combine(positions, sums, ends, _sums(data, ends, members), zero))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _sums(data: SortedRows, positions: Array, rows: Array) -> Array:
    if len(rows) == data.rows:
        return data.sums(positions)
    return np.stack([data.row(int(r)).sums(p[None])[0] for r, p in zip(rows, positions, strict=True)])


def _combine(positions: Array, sums: Array, end: Array, end_sum: Array, zero: bool) -> tuple[Array, Array]:
    rows, layers, _ = positions.shape
    origin = np.zeros((rows, 1))
    free, pinned = origin, np.full((rows, 1), -np.inf)
    last_position, last_sum = origin, origin
    backs: list[tuple[Array, Array]] = []
    for k in range(layers + 1):
        position = positions[:, k].astype(np.float64) if k < layers else end.astype(np.float64)
        total = sums[:, k] if k < layers else end_sum
        lengths = position[:, None, :] - last_position[:, :, None]
        gain = np.square(total[:, None, :] - last_sum[:, :, None])
        gain /= np.maximum(lengths, 0.5)
        backwards = lengths < 0
        gain[backwards] = -np.inf
        grown, back = _best(free[:, :, None] + gain)
        pinned_back = back
        if zero:
            kept, pinned_back = _best(pinned[:, :, None] + gain)
            entered, entered_from = _best(np.where(backwards, -np.inf, free[:, :, None]))
            enter = entered > kept
            pinned = np.where(enter, entered, kept)
            pinned_back = np.where(enter, -1 - entered_from, pinned_back)
        free = grown
        backs.append((back, pinned_back))
        last_position, last_sum = position, total
    return _trace(positions, backs, zero), (pinned if zero else free)[:, 0]


def _best(scores: Array) -> tuple[Array, Array]:
    where = scores.argmax(axis=1)
    return np.take_along_axis(scores, where[:, None, :], axis=1)[:, 0], where


def _trace(positions: Array, backs: list[tuple[Array, Array]], zero: bool) -> Array:
    rows, layers, _ = positions.shape
    everyone = np.arange(rows)
    cuts = np.zeros((rows, layers), dtype=np.int64)
    at = np.zeros(rows, dtype=np.int64)
    state = np.full(rows, zero)
    for k in range(layers, 0, -1):
        free_back, pinned_back = backs[k]
        back = np.where(state, pinned_back[everyone, at], free_back[everyone, at])
        state = state & (back >= 0)
        at = np.where(back < 0, -1 - back, back)
        cuts[:, k - 1] = positions[everyone, k - 1, at]
    return cuts


def _geometric(cuts: Array, n: int) -> Array:
    """Return (rows, K − 1, w) positions: steps of 1, 2, 4 … numbers, and quarters of the clusters nearby."""
    steps = 2 ** np.arange(max(1, n.bit_length() - 1))
    exact = [cuts[:, :, None], cuts[:, :, None] + steps, cuts[:, :, None] - steps]
    return np.asarray(np.clip(np.concatenate([*exact, _even(cuts, n, 4, 2.0)], axis=2), 0, n))


def _even(cuts: Array, n: int, pieces: int, reach: float) -> Array:
    """Return (rows, K − 1, w) positions that cut the clusters within ``reach`` of each cut into pieces."""
    rows, inner = cuts.shape
    ends = np.concatenate([np.zeros((rows, 1), int), cuts, np.full((rows, 1), n)], axis=1)
    offsets = np.arange(-int(reach * pieces), int(reach * pieces) + 1) / pieces
    places = np.clip(np.arange(1, inner + 1)[:, None] + offsets, 0, inner + 1)
    low = np.minimum(places.astype(np.int64), inner)
    left, right = ends[:, low], ends[:, low + 1]
    return np.asarray(np.round(left + (places - low) * (right - left)).astype(np.int64))


_STAGES: tuple[tuple[Callable[[Array, int], Array], float], ...] = (
    (lambda cuts, n: _even(cuts, n, 8, 2.5), 3e-4),
    (lambda cuts, n: _even(cuts, n, 32, 1.0), 5e-5),
    (_geometric, 5e-6),
)
"""Candidate sets, coarse to fine, each used until a round lowers the distortion by less than a fraction."""
